//! The rows of the table of faults that are shown on real file systems, one file each.

use super::Row;

/// All of them, in the order in which they are run.
pub const ROWS: &[Row] = &[];
