//! The program everlogd from outside: how it ends, and what a client of its streams sees.

mod auth;
mod cold;
mod exits;
mod feed;
mod forks;
mod front;
mod lifetimes;
mod program;
mod security;
mod served;
mod snapshots;
mod streams;
mod tls;
