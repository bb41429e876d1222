//! The only room that names PyO3: the interpreter, sessions, the function builder, and Python's
//! side of [`crate::engine::Language`]. It knows no server: what scripts ask of one goes through
//! [`crate::engine::Host`] and [`crate::engine::Environment`].

mod api;
mod builder;
mod error;
mod function;
mod interpreter;
mod language;
mod link;
mod object;
mod options;
mod packing;
mod profile;
mod promise;
mod register;
mod requirements;
mod session;
mod shipping;
mod text;
mod watch;

pub(crate) use function::Function;
pub(crate) use interpreter::{
    Script, ScriptEnd, World, call, enter_thread, memory, open, run_script, start,
};
pub(crate) use language::Cpython;
pub(crate) use link::Allocator;
pub(crate) use profile::{profile_text, reset_profile};
pub(crate) use requirements::{
    Alias, Allowed, Ends, Failure, NotHere, Payload, Remains, Requirement, Sources, Uses, prefer,
    remove_wheels, shown,
};
pub(crate) use session::{Needs, Session};
pub(crate) use shipping::{
    language, receive_function, receive_registration, receive_run, receive_session,
};
