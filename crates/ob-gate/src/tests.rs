//! Tests over a real socket, with a scripted provider and a store in memory.

mod calls;
mod faults;
mod ledger;
mod secrecy;
mod socket;
mod tools;
mod trial;
mod wires;
mod world;
