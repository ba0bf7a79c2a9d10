//! Servers, devices, the way between them and an S3 store, for tests that need real processes.
//!
//! Devices connect to the proxy, whose address stays the same while the server behind it comes and goes. Invariant:
//! whatever is started here ends with its handle.

mod device;
mod http;
mod proxy;
mod s3;
mod server;

pub use device::{COLLECTIONS, Device, told};
pub use http::{Answer, ask, try_ask};
pub use proxy::{Appends, Proxy};
pub use s3::{BUCKET, CREDENTIALS, S3};
pub use server::Server;
