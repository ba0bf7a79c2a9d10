//! The program everlogd from outside: how it ends, and what a client of its streams sees.

mod cold;
mod exits;
mod program;
mod streams;
