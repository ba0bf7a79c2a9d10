//! Power loss on real file systems: the requests of a real block device are logged while a victim writes, states of the
//! disk as a power failure may leave them are made from the log, mounted and recovered, and the oracle is asked.
//!
//! - `blocklog`: what the log says
//! - `states`: which states follow from it, and the model of a disk that says so
//! - `device`: the device that is logged
//! - `generation`: a victim on such a device, and what it said, tied to places in the log
//!
//! The row itself is `rows/power.rs`. It needs root, qemu's storage daemon, FUSE, loop devices, ext4 and XFS.

pub mod blocklog;
pub mod device;
pub mod generation;
pub mod states;
