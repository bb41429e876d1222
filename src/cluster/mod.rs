//! Shards talking to shards. It knows neither the server's API nor the interpreter.
//!
//! One server needs none of it: [`crate::engine::Alone`] is its exchange.

#![forbid(unsafe_code)]
