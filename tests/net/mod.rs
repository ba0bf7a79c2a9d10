//! Servers and the way to them, for tests that need real processes: everlogd, and a proxy that knows what is in flight.
//!
//! Devices connect to the proxy, whose address stays the same while the server behind it comes and goes. Invariant:
//! whatever is started here ends with its handle.

mod proxy;
mod server;

pub use proxy::Proxy;
pub use server::Server;
