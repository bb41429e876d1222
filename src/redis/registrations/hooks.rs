//! Hooks: functions that run in place of a command of the server, or react to what it does.
//!
//! The command filter rewrites a command that has a hook to `RG.INNERHOOK command ...`, or
//! `RG.INNERHOOKWRITE command ...` if it writes: so the server makes it wait while clients are paused,
//! or refuses it, as it would the command itself. Its keys stay declared, and the client needs the right
//! to run the command itself as well.
//!
//! On a replica `RG.TRIGGER` and `RG.TRIGGERONKEY` are carried by `RG.INNERHOOK` too: they count as
//! writing, but what they run may read there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::Names;
use super::keys::KeysFunction;
use super::spec::CommandSpec;
use super::{CommandFunction, Registrations};
use crate::engine::{Caller, Chunk, Command, Item, Launch, Mode, Reply, Results, Source};
use crate::redis::raw::{self, Args, BlockedClient, CallReply, Client, Ctx, Filtered};
use crate::redis::reply;

/// A function in the chain of a command.
#[derive(Clone)]
pub(super) struct Hook {
    pub(super) function: Arc<CommandFunction>,
    /// How a key must begin.
    pub(super) key_prefix: Option<Vec<u8>>,
}

impl Hook {
    /// Whether a command of so many words goes through it.
    fn applies<'a>(
        &self,
        spec: &CommandSpec,
        words: usize,
        word: impl Fn(usize) -> &'a [u8],
    ) -> bool {
        match &self.key_prefix {
            None => true,
            Some(prefix) => spec.keys(words).any(|at| word(at).starts_with(prefix)),
        }
    }
}

/// All that listens to one command.
pub(super) struct Hooked {
    pub(super) spec: CommandSpec,
    /// The last one registered comes first.
    pub(super) chain: Vec<Hook>,
    /// Prefixes of KeysReaders that name the command, with their order.
    pub(super) keys: Vec<(u64, Names)>,
}

impl Hooked {
    pub(super) fn new(spec: CommandSpec) -> Self {
        Self {
            spec,
            chain: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// The part of the chain that this command goes through.
    fn chain_for<'a>(&self, words: usize, word: impl Fn(usize) -> &'a [u8]) -> Vec<Hook> {
        let Some(spec) = self.spec.with(word(1)) else {
            return Vec::new();
        };
        let applies = |hook: &&Hook| hook.applies(spec, words, &word);
        self.chain.iter().filter(applies).cloned().collect()
    }

    fn concerns_keys<'a>(&self, words: usize, word: impl Fn(usize) -> &'a [u8]) -> bool {
        let named = |(_, names): &(u64, Names)| {
            // Here a star at the beginning stands for any key.
            matches!(names, Names::Beginning(beginning) if beginning.is_empty())
                || self.spec.keys(words).any(|at| names.matches(word(at)))
        };
        self.keys.iter().any(named)
    }

    /// Whether a command goes through any of it; what the server says of it, if so.
    fn concerns(&self, filtered: &Filtered) -> Option<&CommandSpec> {
        let (words, word) = (filtered.len(), |at: usize| filtered.word(at));
        let spec = self.spec.with(word(1))?;
        let hooks = |hook: &Hook| hook.applies(spec, words, word);
        let concerned =
            spec.takes(words) && (self.chain.iter().any(hooks) || self.concerns_keys(words, word));
        concerned.then_some(spec)
    }
}

/// The commands that carry hooked ones: those that read, and those that write.
const CARRIERS: [&str; 2] = ["RG.INNERHOOK", "RG.INNERHOOKWRITE"];

const TRIGGER: &[u8] = b"rg.trigger";
const TRIGGER_ON_KEY: &[u8] = b"rg.triggeronkey";

/// A reply of one result, for the function before in the chain.
fn as_reply(results: &Results) -> Result<Reply, String> {
    fn next<'a>(items: &mut impl Iterator<Item = Item<'a>>) -> Reply {
        match items.next() {
            Some(Item::Bulk(text) | Item::Status(text)) => Reply::Bytes(text.to_vec()),
            Some(Item::Error(text)) => Reply::Error(text.to_vec()),
            Some(Item::Integer(number)) => Reply::Integer(number),
            Some(Item::Array(len)) => Reply::Array((0..len).map(|_| next(items)).collect()),
            None => Reply::Nil,
        }
    }
    if results.len() != 1 {
        return Err(NOT_ONE_RESULT.into());
    }
    match next(&mut results.items()) {
        Reply::Error(text) => Err(String::from_utf8_lossy(&text).into_owned()),
        reply => Ok(reply),
    }
}

const CAN_NOT_WAIT_HERE: &str = "a hook that is called by another one can not answer later";

const NOT_ONE_RESULT: &str = "Command hook must return exactly one result";

/// A hooked command on its way through its chain.
struct HookCall {
    registrations: &'static Registrations,
    /// As the client typed it.
    name: Vec<u8>,
    /// What is still to come.
    rest: Vec<Hook>,
    client: Client,
    may_wait: bool,
}

impl Caller for HookCall {
    fn may_wait(&self) -> bool {
        self.may_wait
    }

    fn call_next(&self, user: &str, arguments: &Command) -> Result<Reply, String> {
        let mut command = Command::of(&[&self.name]);
        for argument in arguments.words() {
            command.push(argument);
        }
        self.registrations.lock.with(|server| {
            let Some((hook, rest)) = self.rest.split_first() else {
                // A function is given what it knows: replies of RESP2.
                let client = Client {
                    user: Some(user.into()),
                    resp3: false,
                    ..self.client.clone()
                };
                let reply = raw::past_hooks(|| server.call_for(&client, &command))?;
                return match reply.error() {
                    Some(error) => Err(error),
                    None => Ok(reply.value()),
                };
            };
            let next: Arc<dyn Caller> = Arc::new(Self {
                registrations: self.registrations,
                name: self.name.clone(),
                rest: rest.to_vec(),
                client: self.client.clone(),
                may_wait: false,
            });
            let words: Vec<&[u8]> = command.words().collect();
            let chunk = Chunk::words(words.into_iter());
            let function = &hook.function.function;
            function.statistics.trigger();
            let ran = function.run_here(&chunk, Some(&next), |results, errors| {
                match errors.first() {
                    Some(error) => Err(error.clone()),
                    None => as_reply(results),
                }
            });
            // It may promise nothing: it can not wait.
            ran.unwrap_or_else(|_| Err(CAN_NOT_WAIT_HERE.into()))
        })
    }
}

/// A command that KeysReader functions react to.
pub(super) struct KeysCall {
    /// In lower case.
    pub(super) name: Vec<u8>,
    words: Vec<Vec<u8>>,
    may_wait: bool,
    state: Mutex<KeysCallState>,
}

#[derive(Default)]
struct KeysCallState {
    /// Functions that run before the reply, with their records.
    later: Vec<(Arc<KeysFunction>, Result<Chunk, String>)>,
    /// Executions that the reply waits for, and the command itself.
    holders: usize,
    overridden: Option<Results>,
    answered: bool,
    reply: Option<Result<CallReply, String>>,
    client: Option<BlockedClient>,
}

impl KeysCall {
    fn state(&self) -> MutexGuard<'_, KeysCallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A function reacts before the reply.
    pub(super) fn later(&self, function: Arc<KeysFunction>, record: Result<Chunk, String>) {
        self.state().later.push((function, record));
    }

    /// The reply waits for one more.
    pub(super) fn hold(&self) {
        self.state().holders += 1;
    }

    /// For one less.
    pub(super) fn release(&self) {
        let mut state = self.state();
        state.holders = state.holders.saturating_sub(1);
        if state.holders > 0 {
            return;
        }
        state.answered = true;
        let (overridden, reply) = (state.overridden.take(), state.reply.take());
        let client = state.client.take();
        drop(state);
        if let Some(client) = client {
            client.reply(|ctx| answer(ctx, overridden.as_ref(), reply.as_ref()));
        }
    }
}

fn answer(ctx: Ctx<'_>, overridden: Option<&Results>, reply: Option<&Result<CallReply, String>>) {
    match (overridden, reply) {
        (Some(overridden), _) => reply::result(ctx, overridden),
        (None, Some(Ok(reply))) => ctx.call_reply(reply),
        (None, Some(Err(error))) => ctx.error(error.as_bytes()),
        (None, None) => ctx.error(b"Failed getting results from command execution"),
    }
}

impl Caller for KeysCall {
    fn may_wait(&self) -> bool {
        self.may_wait
    }

    fn command(&self) -> Option<&[Vec<u8>]> {
        Some(&self.words)
    }

    fn override_reply(&self, reply: Results) -> Result<(), String> {
        let mut state = self.state();
        if state.answered {
            return Err("Can not get command ctx".into());
        }
        if state.overridden.is_some() {
            return Err("Can only override reply once".into());
        }
        state.overridden = Some(reply);
        Ok(())
    }

    fn call_next(&self, _user: &str, _arguments: &Command) -> Result<Reply, String> {
        Err("Can not get CommandHook ctx".into())
    }
}

impl Registrations {
    /// Rewrites a command that has a hook. Called with every command, the server lock held.
    pub(super) fn filter(&'static self, filtered: &Filtered) {
        // Taken first: the jobs run commands of their own.
        if raw::goes_past_hooks() {
            return;
        }
        // Functions that wait for the end of the command before this one. In a script they wait for its
        // end.
        if raw::has_waiting_jobs() && !self.server.runs_script() {
            raw::run_jobs_before_command(self.server);
        }
        let triggers = self.carries_triggers();
        if !(self.has_hooks() || triggers) {
            return;
        }
        let replica = raw::is_replica();
        // What a function of it calls does not reach its keys.
        if replica && self.server.node_id().is_some() {
            return;
        }
        let mut lower = [0; 64];
        let name = filtered.word(0);
        let Some(lower) = lower.get_mut(..name.len()) else {
            return;
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        if triggers && (lower == TRIGGER || lower == TRIGGER_ON_KEY) {
            // Also while a data set is loaded, which the server then answers.
            return filtered.carry(CARRIERS, false);
        }
        if self.is_loading() {
            return;
        }
        let state = self.state();
        let Some(hooked) = state.hooked.get(&*lower) else {
            return;
        };
        let Some(spec) = hooked.concerns(filtered) else {
            return;
        };
        // What writes comes from the master on a replica, or is refused.
        if !(spec.writes && replica) {
            filtered.carry(CARRIERS, spec.writes || spec.may_replicate && !replica);
        }
    }

    /// `RG.INNERHOOK command ...` and `RG.INNERHOOKWRITE command ...`: a command that has a hook.
    pub(in crate::redis) fn hooked(&'static self, ctx: Ctx<'_>, args: &Args<'_>) {
        let words = args.rest();
        let Some((name, arguments)) = words.split_first() else {
            // Whoever asks for keys has no client to reply to.
            if !ctx.asks_for_keys() {
                ctx.wrong_arity();
            }
            return;
        };
        let lower = name.to_ascii_lowercase();
        if ctx.asks_for_keys() {
            let second = words.get(1).copied().unwrap_or_default();
            if let Some(hooked) = self.state().hooked.get(&lower)
                && let Some(spec) = hooked.spec.with(second)
            {
                for at in spec.keys(words.len()) {
                    ctx.key_at(at + 1);
                }
            }
            return;
        }
        if !args.is_carried() {
            return ctx
                .error(b"ERR this command is internal: it carries commands that have a hook");
        }
        if ctx.is_replayed() {
            // What the master did is not done again by a function here.
            let command = Command::of(words);
            return match raw::past_hooks(|| self.server.call_for(&ctx.client(), &command)) {
                Ok(reply) => ctx.call_reply(&reply),
                Err(error) => ctx.error(error.as_bytes()),
            };
        }
        if lower == TRIGGER || lower == TRIGGER_ON_KEY {
            return self.trigger_on_replica(ctx, words);
        }
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let found = self.state().hooked.get(&lower).map(|hooked| {
            let chain = hooked.chain_for(words.len(), word);
            (hooked.spec.clone(), chain)
        });
        let (spec, chain) = found.unwrap_or_else(|| {
            // The hook went while the command waited in a transaction.
            let name = String::from_utf8_lossy(&lower);
            let spec = CommandSpec::of(self.server, &name).unwrap_or_default();
            (spec, Vec::new())
        });
        let spec = spec.with(word(1)).unwrap_or(&spec);
        if let Some(error) = self.refuse_command(ctx, spec, words) {
            return ctx.error(error.as_bytes());
        }
        let client = ctx.client();
        match chain.split_first() {
            Some((hook, rest)) => {
                let call = HookCall {
                    registrations: self,
                    name: name.to_vec(),
                    rest: rest.to_vec(),
                    client,
                    may_wait: ctx.may_block(),
                };
                let chunk = Chunk::words(words.iter().copied());
                self.run_hook(ctx, &hook.function, chunk, Arc::new(call));
            }
            None => {
                let mut command = Command::of(&[name]);
                for argument in arguments {
                    command.push(argument);
                }
                self.run_with_keys(ctx, lower, words, &client, &command);
            }
        }
    }

    /// `RG.TRIGGER name ...` or `RG.TRIGGERONKEY name key ...` of a replica's client.
    fn trigger_on_replica(&self, ctx: Ctx<'_>, words: &[&[u8]]) {
        if let Some(error) = self.refuse_command(ctx, &CommandSpec::default(), words) {
            return ctx.error(error.as_bytes());
        }
        let arguments = words.get(1..).unwrap_or_default();
        if arguments.is_empty() {
            return ctx.error(b"ERR wrong number of arguments for 'rg.trigger' command");
        }
        self.trigger(ctx, arguments);
    }

    /// What the server would have checked for the command itself.
    fn refuse_command(&self, ctx: Ctx<'_>, spec: &CommandSpec, words: &[&[u8]]) -> Option<String> {
        let user = match self.server.user(ctx.user()) {
            Ok(user) => user,
            Err(error) => return Some(error),
        };
        if !user.may_run(words) {
            let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default());
            let name = name.to_lowercase();
            return Some(format!(
                "NOPERM this user has no permissions to run the '{name}' command with these keys"
            ));
        }
        // The server has looked already, but for what a replica may do.
        if spec.may_replicate && self.server.is_paused() {
            return Some(raw::NO_WRITES_NOW.into());
        }
        if spec.deny_oom && ctx.is_out_of_memory() {
            return Some("OOM command not allowed when used memory > 'maxmemory'.".into());
        }
        None
    }

    fn run_hook(
        &self,
        ctx: Ctx<'_>,
        function: &Arc<CommandFunction>,
        chunk: Chunk,
        call: Arc<HookCall>,
    ) {
        let registration = &function.function;
        let may_wait = call.may_wait;
        let caller: Arc<dyn Caller> = call;
        if registration.mode == Mode::Sync {
            registration.statistics.trigger();
            let ran = registration.run_here(&chunk, Some(&caller), |results, errors| {
                one_result(ctx, results, errors);
            });
            if let Err(unfinished) = ran {
                let source = Source::Unfinished(unfinished);
                let mut launch = Launch::of_registration(registration, source);
                launch.caller = Some(caller);
                self.start(function, launch, ctx.block(), one_result);
            }
            return;
        }
        if !may_wait {
            return ctx.error(super::CAN_NOT_WAIT);
        }
        registration.statistics.trigger();
        let mut launch = Launch::of_registration(registration, Source::Records(chunk));
        launch.caller = Some(caller);
        self.start(function, launch, ctx.block(), one_result);
    }

    /// Runs a command that KeysReader functions react to, and holds its reply until they are done.
    fn run_with_keys(
        &'static self,
        ctx: Ctx<'_>,
        name: Vec<u8>,
        words: &[&[u8]],
        client: &Client,
        command: &Command,
    ) {
        let call = Arc::new(KeysCall {
            name,
            words: words.iter().map(|word| word.to_vec()).collect(),
            may_wait: ctx.may_block(),
            state: Mutex::default(),
        });
        call.hold();
        let before = self.replace_call(Some(call.clone()));
        let reply = raw::past_hooks(|| self.server.call_for(client, command));
        let caller: Arc<dyn Caller> = call.clone();
        loop {
            let later = std::mem::take(&mut call.state().later);
            if later.is_empty() {
                break;
            }
            for (function, record) in later {
                if let Some(unfinished) = function.run_here(record, Some(&caller)) {
                    self.go_on(&function, unfinished, Some(call.clone()));
                }
            }
        }
        self.replace_call(before);
        let mut state = call.state();
        if state.holders == 1 {
            state.answered = true;
            let overridden = state.overridden.take();
            drop(state);
            return answer(ctx, overridden.as_ref(), Some(&reply));
        }
        state.reply = Some(reply);
        state.client = Some(ctx.block());
        drop(state);
        call.release();
    }
}

/// The reply of a hook: its one result.
fn one_result(ctx: Ctx<'_>, results: &Results, errors: &[String]) {
    match errors.first() {
        Some(error) => ctx.error(error.as_bytes()),
        None if results.len() == 1 => reply::result(ctx, results),
        None => ctx.error(NOT_ONE_RESULT.as_bytes()),
    }
}
