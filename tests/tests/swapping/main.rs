//! A module is replaced while its callers keep calling: nothing is lost, repeated, or answered by a mix; and whatever
//! fails leaves the old build as it was.

mod at_once;
mod calls;
mod concurrency;
mod continuity;
mod faults;
mod given_up;
mod gone_away;
mod interleavings;
mod leaks;
mod opening;
mod probation;
mod scene;
mod state;
mod under_load;
