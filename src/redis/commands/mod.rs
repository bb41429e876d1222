//! The commands: parse arguments, call inward, reply.

mod abort;
mod cluster;
mod config;
mod executions;
mod pyexecute;
mod pystats;

use super::Module;
use super::raw::{Args, Argument, Ctx};

/// What a command does.
pub(super) type Handler = fn(&'static Module, Ctx<'_>, &Args<'_>);

/// A command as it is registered.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) flags: &'static str,
    pub(super) categories: &'static str,
    pub(super) summary: &'static str,
    pub(super) complexity: &'static str,
    pub(super) arguments: &'static [Argument],
    pub(super) handler: Handler,
}

/// Loads code: whoever may do so may do anything. Not in the category of writing commands, which is
/// given away more lightly.
const LOADS_CODE: (&str, &str) = ("write deny-oom admin", "admin dangerous slow");
/// Changes what the module does or keeps.
const CHANGES: (&str, &str) = ("admin deny-script", "admin dangerous slow");
/// Looks.
const READS: (&str, &str) = ("readonly", "read slow");

const fn command(
    name: &'static str,
    (flags, categories): (&'static str, &'static str),
    summary: &'static str,
    complexity: &'static str,
    arguments: &'static [Argument],
    handler: Handler,
) -> Command {
    Command {
        name,
        flags,
        categories,
        summary,
        complexity,
        arguments,
        handler,
    }
}

const PLAIN: Argument = Argument {
    name: c"id",
    token: None,
    flag: false,
    optional: false,
    multiple: false,
};
const ID: &[Argument] = &[PLAIN];

const fn word(name: &'static std::ffi::CStr, token: &'static std::ffi::CStr) -> Argument {
    Argument {
        name,
        token: Some(token),
        flag: true,
        optional: true,
        multiple: false,
    }
}

const fn option(name: &'static std::ffi::CStr, token: &'static std::ffi::CStr) -> Argument {
    Argument {
        name,
        token: Some(token),
        flag: false,
        optional: true,
        multiple: false,
    }
}

/// All commands.
pub(super) const COMMANDS: [Command; 12] = [
    command(
        "rg.pyexecute",
        LOADS_CODE,
        "Runs a Python script, and the function it builds.",
        "Depends on the script",
        &[
            Argument {
                name: c"script",
                ..PLAIN
            },
            word(c"unblocking", c"UNBLOCKING"),
            option(c"id", c"ID"),
            option(c"description", c"DESCRIPTION"),
            word(c"upgrade", c"UPGRADE"),
            option(c"replaced", c"REPLACE_WITH"),
            word(c"force-reinstall", c"FORCE_REINSTALL_REQUIREMENTS"),
            Argument {
                multiple: true,
                ..option(c"requirement", c"REQUIREMENTS")
            },
        ],
        pyexecute::pyexecute,
    ),
    command(
        "rg.getresults",
        READS,
        "Returns results and errors of an execution that has ended.",
        "O(N) where N is the number of results",
        ID,
        executions::get_results,
    ),
    command(
        "rg.getresultsblocking",
        READS,
        "Waits for an execution to end and returns its results and errors.",
        "O(N) where N is the number of results",
        ID,
        executions::get_results_blocking,
    ),
    command(
        "rg.dumpexecutions",
        READS,
        "Lists the executions.",
        "O(N) where N is the number of executions",
        &[],
        executions::dump_executions,
    ),
    command(
        "rg.getexecution",
        READS,
        "Describes an execution and its steps.",
        "O(N) where N is the number of steps",
        &[
            PLAIN,
            Argument {
                name: c"scope",
                optional: true,
                ..PLAIN
            },
        ],
        executions::get_execution,
    ),
    command(
        "rg.dropexecution",
        CHANGES,
        "Forgets an execution that has ended.",
        "O(1)",
        ID,
        executions::drop_execution,
    ),
    command(
        "rg.abortexecution",
        CHANGES,
        "Stops an execution.",
        "O(1)",
        ID,
        abort::abort_execution,
    ),
    command(
        "rg.configget",
        READS,
        "Returns the values of settings.",
        "O(N) where N is the number of settings asked for",
        &[Argument {
            name: c"name",
            multiple: true,
            ..PLAIN
        }],
        config::config_get,
    ),
    command(
        "rg.configset",
        CHANGES,
        "Changes settings until the server ends.",
        "O(N) where N is the number of settings given",
        &[
            Argument {
                name: c"name",
                multiple: true,
                ..PLAIN
            },
            Argument {
                name: c"value",
                multiple: true,
                ..PLAIN
            },
        ],
        config::config_set,
    ),
    command(
        "rg.pystats",
        READS,
        "Returns the memory that Python takes, in bytes.",
        "O(1)",
        &[],
        pystats::pystats,
    ),
    command(
        "rg.infocluster",
        READS,
        "Describes the shards of the cluster.",
        "O(N) where N is the number of shards",
        &[],
        cluster::info_cluster,
    ),
    command(
        "rg.refreshcluster",
        CHANGES,
        "Reads the topology of the cluster anew.",
        "O(N) where N is the number of shards",
        &[],
        cluster::refresh_cluster,
    ),
];
