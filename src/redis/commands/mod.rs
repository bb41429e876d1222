//! The commands: parse arguments, call inward, reply.

mod abort;
mod cluster;
mod clusterset;
mod config;
mod executions;
mod legacy;
mod pyexecute;
mod pyprofile;
mod pysessions;
mod pystats;
mod registrations;
mod requirements;

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
    /// The position of its key; 0 for none.
    pub(super) key: std::ffi::c_int,
    pub(super) handler: Handler,
}

pub(super) use abort::abort;
pub(super) use executions::describe;
pub(super) use registrations::info as registration_info;
pub(super) use requirements::info as requirement_info;

/// Loads code: whoever may do so may do anything. Not in the category of writing commands, which is
/// given away more lightly.
const LOADS_CODE: (&str, &str) = ("write deny-oom admin", "admin dangerous slow");
/// Changes what the module does or keeps.
const CHANGES: (&str, &str) = ("admin deny-script", "admin dangerous slow");
/// Changes what is registered, which replicas get from their master.
const REGISTERS: (&str, &str) = ("write admin", "admin dangerous slow");
/// Runs what was registered, which may write.
const RUNS: (&str, &str) = ("write deny-oom", "write slow");
/// Carries commands that have hooks: it checks for itself what the server checks for those, the
/// rights of the client included. So nearly everybody may have it.
const CARRIES: (&str, &str) = ("readonly getkeys-api", "read fast");
/// The same for commands that write.
const CARRIES_WRITES: (&str, &str) = ("write getkeys-api", "write fast");
/// Comes from the master or the AOF only.
const REPLAYED: (&str, &str) = ("admin write", "admin dangerous slow");
/// Comes from other shards only.
const BETWEEN_SHARDS: (&str, &str) = ("admin deny-script", "admin dangerous slow");
/// Looks at scripts, which may hold secrets.
const LOOKS_AT_CODE: (&str, &str) = ("readonly admin", "admin dangerous slow");
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
        key: 0,
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
const IDS: &[Argument] = &[Argument {
    multiple: true,
    ..PLAIN
}];
const TRIGGER: &[Argument] = &[
    Argument {
        name: c"trigger",
        ..PLAIN
    },
    Argument {
        name: c"argument",
        optional: true,
        multiple: true,
        ..PLAIN
    },
];

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
pub(super) const COMMANDS: [Command; 38] = [
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
        "rg.pydumpreqs",
        READS,
        "Lists the requirements that are installed or being installed.",
        "O(N) where N is the number of requirements",
        &[],
        requirements::dump,
    ),
    command(
        "rg.pyexportreq",
        LOOKS_AT_CODE,
        "Returns a requirement with its wheels.",
        "O(N) where N is the size of the wheels",
        &[Argument {
            name: c"requirement",
            ..PLAIN
        }],
        requirements::export,
    ),
    command(
        "rg.pyimportreq",
        LOADS_CODE,
        "Installs a requirement that was exported, on all shards.",
        "O(N) where N is the size of the wheels",
        &[Argument {
            name: c"chunk",
            multiple: true,
            ..PLAIN
        }],
        requirements::import,
    ),
    command(
        "rg.innerrequirement",
        REPLAYED,
        "Internal: a requirement on replicas and from the AOF.",
        "O(N) where N is the size of the wheels",
        &[],
        requirements::inner,
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
    command(
        "rg.clusterset",
        READS,
        "Takes a topology of Redis Enterprise, if it is that of one node.",
        "O(N) where N is the number of ranges of slots",
        &[Argument {
            name: c"word",
            multiple: true,
            ..PLAIN
        }],
        clusterset::cluster_set,
    ),
    command(
        "rg.networktest",
        CHANGES,
        "Sends a message to all other shards.",
        "O(N) where N is the number of shards",
        &[],
        cluster::network_test,
    ),
    command(
        "rg.hello",
        BETWEEN_SHARDS,
        "Internal: a shard says who it is.",
        "O(1)",
        &[],
        cluster::hello,
    ),
    command(
        "rg.innermsgcommand",
        BETWEEN_SHARDS,
        "Internal: a message of another shard.",
        "O(N) where N is the length of the message",
        &[],
        cluster::message,
    ),
    command(
        "rg.trigger",
        RUNS,
        "Runs a registered function by the name of its trigger.",
        "Depends on the function",
        TRIGGER,
        registrations::trigger,
    ),
    Command {
        key: 2,
        ..command(
            "rg.triggeronkey",
            RUNS,
            "Runs a registered function by the name of its trigger, where a key is.",
            "Depends on the function",
            TRIGGER,
            registrations::trigger_on_key,
        )
    },
    command(
        "rg.dumpregistrations",
        READS,
        "Lists the registered functions.",
        "O(N) where N is the number of registrations",
        &[],
        registrations::dump_registrations,
    ),
    command(
        "rg.unregister",
        REGISTERS,
        "Removes a registration.",
        "O(N) where N is the number of registrations",
        &[PLAIN, word(c"abort-pending", c"ABORTPENDING")],
        registrations::unregister,
    ),
    command(
        "rg.pauseregistrations",
        CHANGES,
        "Pauses functions that read streams.",
        "O(N) where N is the number of ids given",
        IDS,
        registrations::pause,
    ),
    command(
        "rg.unpauseregistrations",
        CHANGES,
        "Lets paused functions go on.",
        "O(N) where N is the number of ids given",
        IDS,
        registrations::unpause,
    ),
    command(
        "rg.clearregistrationsstats",
        CHANGES,
        "Sets the statistics of all registrations to zero.",
        "O(N) where N is the number of registrations",
        &[],
        registrations::clear_statistics,
    ),
    command(
        "rg.pysessionsource",
        LOOKS_AT_CODE,
        "Returns the script of a session that has registrations.",
        "O(N) where N is the length of the script",
        ID,
        registrations::session_source,
    ),
    command(
        "rg.pydumpsessions",
        READS,
        "Lists the sessions that have registrations, or that were replaced while they ran.",
        "O(N) where N is the number of sessions and executions",
        &[
            word(c"verbose", c"VERBOSE"),
            word(c"dead", c"DEAD"),
            Argument {
                multiple: true,
                ..option(c"session", c"SESSIONS")
            },
        ],
        pysessions::dump_sessions,
    ),
    command(
        "rg.pyprofile",
        CHANGES,
        "Shows how long the callbacks of a session take, or begins to measure anew.",
        "O(N*log(N)) where N is the number of functions that were called",
        &[
            Argument {
                name: c"subcommand",
                ..PLAIN
            },
            Argument {
                name: c"session",
                ..PLAIN
            },
            Argument {
                name: c"order",
                optional: true,
                ..PLAIN
            },
        ],
        pyprofile::profile,
    ),
    command(
        "rg.dumpplugins",
        READS,
        "Lists the plugins of RedisGears 1.x, of which there is one.",
        "O(1)",
        &[],
        legacy::dump_plugins,
    ),
    command(
        "rg.pyfreeinterpreter",
        READS,
        "Does nothing, as in the last versions of RedisGears 1.x.",
        "O(1)",
        &[],
        legacy::free_interpreter,
    ),
    command(
        "rg.pyexecuteremote",
        READS,
        "Does nothing, as in the last versions of RedisGears 1.x.",
        "O(1)",
        &[],
        legacy::execute_remote,
    ),
    command(
        "rg.innerhook",
        CARRIES,
        "Internal: carries a command that has a hook.",
        "Depends on the function",
        &[],
        registrations::inner_hook,
    ),
    command(
        "rg.innerhookwrite",
        CARRIES_WRITES,
        "Internal: carries a command that has a hook and writes.",
        "Depends on the function",
        &[],
        registrations::inner_hook,
    ),
    command(
        "rg.innerregister",
        REPLAYED,
        "Internal: registrations on replicas and from the AOF.",
        "O(N) where N is the number of registrations",
        &[],
        registrations::inner_register,
    ),
    command(
        "rg.innerunregister",
        REPLAYED,
        "Internal: removes a registration on replicas and from the AOF.",
        "O(N) where N is the number of registrations",
        &[],
        registrations::inner_unregister,
    ),
    command(
        "rg.innertimeevent",
        REPLAYED,
        "Internal: a time event on replicas and from the AOF.",
        "O(1)",
        &[],
        registrations::inner_time_event,
    ),
];
