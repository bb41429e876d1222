//! The only room that names the server's API: the module, its commands, its readers and its lock.

#[cfg(not(test))]
mod allocator;
mod cluster;
mod commands;
mod config;
mod guard;
mod host;
mod lock;
mod questions;
mod raw;
mod readers;
mod registrations;
mod reply;
mod requirements;
mod threads;

use std::ffi::c_int;
use std::sync::{Arc, OnceLock};

use crate::cluster::Cluster;
use crate::engine::{Alone, Enter, LogLevel, Machinery, Pool, ReadAhead, Registry, Shards};
use crate::python::{self, Cpython, World};

use commands::COMMANDS;
use config::Settings;
use guard::guard;
use host::{ServerEnvironment, ServerHost};
use lock::Lock;
use raw::{Ctx, Info, RedisModuleCtx, RedisModuleInfoCtx, RedisModuleString, Server};
use readers::ServerReaders;
use registrations::Registrations;
use requirements::Requirements;
use threads::{Job, Threads};

/// Clients look for this name and version.
const NAME: &std::ffi::CStr = c"rg";
const VERSION: c_int = 10213;

/// The loaded module.
struct Module {
    server: Server,
    settings: Arc<Settings>,
    registry: Arc<Registry<Cpython>>,
    registrations: &'static Registrations,
    requirements: &'static Requirements,
    /// The other shards and what is known of them, if the server is a node of a cluster.
    cluster: Option<(Arc<Cluster>, cluster::Watch)>,
    lock: Arc<Lock>,
    /// For the top level of scripts, which may take for ever.
    scripts: Threads,
    /// For what must go on even then: replies, aborts, taking sessions apart.
    helpers: Threads,
}

/// More pool threads than this help nobody.
const MOST_THREADS: usize = 1024;

static MODULE: OnceLock<Module> = OnceLock::new();

impl Module {
    fn warn(&self, message: &str) {
        self.server.log(LogLevel::Warning, message);
    }

    /// Runs the top level of a script.
    fn run_script(&self, job: Job) {
        self.check(self.scripts.run(job));
    }

    /// Runs a job that ends soon.
    fn run(&self, job: Job) {
        self.check(self.helpers.run(job));
    }

    fn check(&self, started: std::io::Result<()>) {
        if let Err(error) = started {
            self.warn(&format!(
                "could not start a thread, so that some work waits: {error}"
            ));
        }
    }
}

/// Loads the module.
fn on_load(ctx: *mut RedisModuleCtx, argv: *mut *mut RedisModuleString, argc: c_int) -> c_int {
    if !raw::init(ctx, NAME, VERSION) {
        return raw::FAILED;
    }
    let Some(server) = Server::new(ctx) else {
        return raw::FAILED;
    };
    match guard(|| load(ctx, server, argv, argc)) {
        Some(Ok(())) => raw::DONE,
        Some(Err(error)) => {
            server.log(
                LogLevel::Warning,
                &format!("geartrain was not loaded: {error}"),
            );
            raw::FAILED
        }
        None => raw::FAILED,
    }
}

fn load(
    ctx: *mut RedisModuleCtx,
    server: Server,
    argv: *mut *mut RedisModuleString,
    argc: c_int,
) -> Result<(), String> {
    log_panics(server);
    let settings = Arc::new(Settings::new());
    // Unlike a command, a load has no word for itself.
    settings.load(Ctx::of_callback(ctx).args(argv, argc).all())?;
    for line in settings.lines() {
        server.log(LogLevel::Notice, &line);
    }
    if settings.threads() > MOST_THREADS {
        return Err(format!(
            "ExecutionThreads can be {MOST_THREADS} at the most"
        ));
    }
    let nice = settings.nice().ok_or("ExecutionNice is 0 to 19")?;
    let lock = Arc::new(Lock::new(
        server,
        raw::subscribe_to_event_loop(ctx, event_loop),
    ));
    let allocator = if settings.accounts_python() {
        raw::allocator()
    } else {
        None
    };
    python::start(allocator)?;
    let failed = |error: std::io::Error| format!("could not start a thread: {error}");
    // The work of functions gives way to the server's own.
    let reading: Enter = Arc::new(move |body| {
        raw::give_way(nice);
        body();
    });
    let working: Enter = Arc::new(move |body| {
        raw::give_way(nice);
        python::enter_thread(body);
    });
    let pool = Pool::start("geartrain-pool", settings.threads(), &working);
    let cluster = cluster::start(server, &settings, &lock)?;
    let shards: Arc<dyn Shards> = match &cluster {
        Some((cluster, _)) => cluster.clone(),
        None => Arc::new(Alone),
    };
    let machinery = Machinery {
        pool: pool.map_err(failed)?,
        read_ahead: ReadAhead::start(reading).map_err(failed)?,
        readers: Box::new(ServerReaders { lock: lock.clone() }),
        shards,
    };
    let registry = Registry::new(settings.limits(), Arc::new(machinery));
    let requirements = Requirements::open(server, lock.clone(), settings.clone(), working.clone())?;
    let registrations = Registrations::open(
        server,
        lock.clone(),
        registry.clone(),
        settings.clone(),
        requirements,
    );
    let registrations = registrations.map_err(failed)?;
    raw::handle_io_errors(ctx);
    if !raw::create_type(ctx, registrations::AUX, registrations::TIMER_KEYS) {
        return Err("the server does not take the type of what is saved with the data".into());
    }
    let world = World {
        host: Box::new(ServerHost { lock: lock.clone() }),
        environment: Box::new(ServerEnvironment {
            server,
            settings: settings.clone(),
            cluster: cluster.as_ref().map(|(cluster, _)| cluster.clone()),
        }),
        registry: registry.clone(),
        registrar: Box::new(registrations),
        python_path: settings.python_path(),
        background: Box::new(|job| {
            // While the module loads there is nothing to leave to others.
            if let Some(module) = MODULE.get() {
                module.run(job);
            }
        }),
    };
    python::open(world)?;
    let module = Module {
        server,
        settings,
        registry,
        registrations,
        requirements,
        cluster,
        lock,
        scripts: Threads::new(working),
        helpers: Threads::new(Arc::new(python::enter_thread)),
    };
    MODULE
        .set(module)
        .map_err(|_| "it is loaded already".to_owned())?;
    if let Some(module) = MODULE.get() {
        let follows = Ctx::of_callback(ctx).is_replica();
        module.registrations.role_changed(follows);
    }
    raw::subscribe_to_role(ctx, role);
    raw::subscribe_to_loading(ctx, loading);
    raw::subscribe_to_fork(ctx, fork);
    raw::subscribe_to_flush(ctx, flushed);
    raw::subscribe_to_swap(ctx, swapped);
    raw::subscribe_to_cron(ctx, cron);
    raw::listen_to_bus(ctx, cluster::heard_on_bus);
    register_commands(ctx)?;
    if !raw::register_info(ctx, info) {
        return Err("the server does not take INFO fields".into());
    }
    Ok(())
}

/// A panic is a defect of ours: what, where, to the server's log.
fn log_panics(server: Server) {
    std::panic::set_hook(Box::new(move |panic| {
        server.log(
            LogLevel::Warning,
            &format!("geartrain internal error: {panic}"),
        );
    }));
}

/// The door of the command at `AT` in the table.
extern "C" fn enter<const AT: usize>(
    ctx: *mut RedisModuleCtx,
    argv: *mut *mut RedisModuleString,
    argc: c_int,
) -> c_int {
    let ctx = Ctx::of_callback(ctx);
    let entered = guard(|| match (MODULE.get(), COMMANDS.get(AT)) {
        (Some(module), Some(command)) => (command.handler)(module, ctx, &ctx.args(argv, argc)),
        _ => ctx.error(b"ERR the module is not loaded"),
    });
    if entered.is_none() {
        ctx.error(b"ERR internal error in geartrain; the server log has more");
    }
    raw::DONE
}

/// One door for each command, by position.
const DOORS: [raw::CommandCallback; COMMANDS.len()] = [
    enter::<0>,
    enter::<1>,
    enter::<2>,
    enter::<3>,
    enter::<4>,
    enter::<5>,
    enter::<6>,
    enter::<7>,
    enter::<8>,
    enter::<9>,
    enter::<10>,
    enter::<11>,
    enter::<12>,
    enter::<13>,
    enter::<14>,
    enter::<15>,
    enter::<16>,
    enter::<17>,
    enter::<18>,
    enter::<19>,
    enter::<20>,
    enter::<21>,
    enter::<22>,
    enter::<23>,
    enter::<24>,
    enter::<25>,
    enter::<26>,
    enter::<27>,
    enter::<28>,
    enter::<29>,
    enter::<30>,
    enter::<31>,
    enter::<32>,
    enter::<33>,
    enter::<34>,
    enter::<35>,
    enter::<36>,
    enter::<37>,
];

fn register_commands(ctx: *mut RedisModuleCtx) -> Result<(), String> {
    for (command, door) in COMMANDS.iter().zip(DOORS) {
        if !raw::create_command(ctx, command, door) {
            return Err(format!(
                "the server does not take the command {}",
                command.name
            ));
        }
    }
    Ok(())
}

/// The server's main thread begins to work, or is about to wait for clients.
extern "C" fn event_loop(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    subevent: u64,
    _data: *mut std::ffi::c_void,
) {
    guard(|| match (MODULE.get(), subevent) {
        (Some(module), raw::BEFORE_SLEEP) => {
            // Before the replies are sent.
            raw::run_jobs();
            module.lock.before_sleep();
        }
        (Some(module), raw::AFTER_SLEEP) => module.lock.after_sleep(),
        _ => {}
    });
}

/// The server began, or ceased, to follow another one.
extern "C" fn role(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    subevent: u64,
    _data: *mut std::ffi::c_void,
) {
    guard(|| {
        if let Some(module) = MODULE.get() {
            let follows = subevent == raw::NOW_REPLICA;
            module.registrations.role_changed(follows);
        }
    });
}

/// The server begins, or ends, to load a data set.
extern "C" fn loading(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    subevent: u64,
    _data: *mut std::ffi::c_void,
) {
    guard(|| match (MODULE.get(), subevent) {
        (Some(module), raw::LOADED | raw::LOAD_FAILED) => {
            module.requirements.loaded();
            module.registrations.loaded();
        }
        (Some(module), _) => {
            module.requirements.loading();
            module.registrations.loading();
            module.registry.drop_all_finished();
        }
        _ => {}
    });
}

/// The server has made a child, or that has gone.
extern "C" fn fork(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    subevent: u64,
    _data: *mut std::ffi::c_void,
) {
    guard(|| {
        let Some(module) = MODULE.get() else { return };
        module.requirements.has_child(subevent == raw::FORKED);
        if subevent == raw::FORKED {
            module.registrations.forked();
        }
    });
}

/// The server looks after itself.
extern "C" fn cron(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    _subevent: u64,
    _data: *mut std::ffi::c_void,
) {
    guard(|| {
        if let Some(module) = MODULE.get() {
            module.look_at_cluster();
            module.registrations.forget_replaced();
        }
    });
}

/// All keys of a database went.
extern "C" fn flushed(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    _subevent: u64,
    data: *mut std::ffi::c_void,
) {
    guard(|| {
        if let Some(module) = MODULE.get()
            && raw::flushes_first_database(data)
        {
            module.registrations.data_dropped();
        }
    });
}

/// All keys of a database came from another one.
extern "C" fn swapped(
    _ctx: *mut RedisModuleCtx,
    _event: raw::Event,
    _subevent: u64,
    data: *mut std::ffi::c_void,
) {
    guard(|| {
        if let Some(module) = MODULE.get()
            && raw::swaps_first_database(data)
        {
            module.registrations.data_dropped();
            // Not in the event: functions may run.
            module.run(Box::new(|| {
                module.lock.with(|_| module.registrations.data_came());
            }));
        }
    });
}

/// Fields of INFO.
extern "C" fn info(ctx: *mut RedisModuleInfoCtx, for_crash_report: c_int) {
    // After a crash any lock may be held for ever.
    if for_crash_report != 0 {
        return;
    }
    guard(|| {
        let (Some(module), info) = (MODULE.get(), Info::of_callback(ctx)) else {
            return;
        };
        if info.section(c"") {
            info.number(c"nexecutions", module.registry.len() as u64);
            info.number(c"nregistrations", module.registrations.len() as u64);
            info.text(c"geartrain_version", env!("CARGO_PKG_VERSION"));
        }
        if info.section(c"regisrations") {
            for listed in module.registrations.list() {
                commands::registration_info(&info, &listed);
            }
        }
        if info.section(c"plugins") {
            info.text(c"GearsPythonPlugin", "version=10000");
        }
        if info.section(c"python_stats") {
            let [total, peak, current] = python::memory();
            info.number(c"TotalAllocated", total as u64);
            info.number(c"PeakAllocated", peak as u64);
            info.number(c"CurrAllocated", current as u64);
        }
        if info.section(c"python_requirements") {
            for requirement in module.requirements.list() {
                commands::requirement_info(module, &info, &requirement);
            }
        }
        if let (Some(cluster), true) = (module.cluster(), info.section(c"cluster")) {
            let traffic = cluster.traffic();
            info.number(c"cluster_messages_sent", traffic.messages);
            info.number(c"cluster_bytes_sent", traffic.bytes);
        }
        if info.section(c"python_sessions") {
            for listed in module.registrations.list_sessions() {
                info.named_text(listed.session.id(), &listed.text());
            }
        }
    });
}
