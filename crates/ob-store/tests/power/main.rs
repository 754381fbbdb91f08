//! Power loss and failing disks, below SQLite and below our own files alike.
//!
//! `kill -9` keeps what the kernel has cached; a power loss does not. So this program puts itself between the store and
//! the kernel (`calls`): every change of a file or folder goes into a journal (`disk`), with every flush. From the
//! journal comes what a disk may hold after a power loss at any moment: all that was flushed, and of the rest any part,
//! in any order, torn at any sector. Each such disk is opened by a store, and everything that was acknowledged before
//! the loss must be in it.
//!
//! ```text
//! store, SQLite -> write, fsync, rename, ... -> calls -> kernel
//!                                                 |
//!                       seed, moment ---> disk: journal ---> image ---> opened and checked
//! ```

mod calls;
mod disk;
mod faults;
mod loss;
