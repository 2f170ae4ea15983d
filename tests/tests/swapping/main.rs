//! A module is replaced while its callers keep calling: nothing is lost, repeated, or answered by a mix; and whatever
//! fails leaves the old build as it was.

mod given_up;
mod probation;
mod state;
mod under_load;
