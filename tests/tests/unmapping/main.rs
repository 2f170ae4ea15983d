//! Every way of holding on to a library, each in a process of its own: no crash, also when the threads that it
//! was used on end and the process does; a receipt that is true; and "unmapped" only where the map agrees.

mod afterlife;
mod embedders;
mod foreign;
mod kept;
mod lasting;
mod loader;
mod locals;
mod system;
mod threads;
