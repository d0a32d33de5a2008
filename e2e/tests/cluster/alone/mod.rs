//! Tests that break what all services share, or see that nobody writes. They come first, one after the other: who waits until all
//! others have ended keeps new ones from beginning, and the machine idle.

mod blog;
mod counter;
mod faults;
mod operator;
mod reshard;
mod wallet;
