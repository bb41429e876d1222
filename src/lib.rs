//! geartrain: programmable data flows inside Redis and Valkey.
//!
//! A command builds a [`engine::Plan`] out of a Python script; an [`engine::Execution`] runs it.
//! The library's surface is its pure part; the module is what a server loads.

pub mod cluster;
pub mod engine;
#[cfg(feature = "module")]
mod python;
#[cfg(feature = "module")]
mod redis;
