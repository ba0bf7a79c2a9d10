//! docs/FORMAT.md.
