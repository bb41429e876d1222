//! RG.PYEXECUTE: a script, and the function it builds.

use std::sync::Arc;

use crate::engine::{Execution, random_id};
use crate::python::{self, Cpython, Failure, Needs, Requirement, Script, ScriptEnd, Uses};
use crate::redis::raw::{Args, BlockedClient, Ctx};
use crate::redis::registrations::Refusal;
use crate::redis::reply;
use crate::redis::requirements::Wanted;
use crate::redis::{Module, cluster};

/// What can be no requirement, since pip takes text.
const NOT_TEXT: &str = "Could not satisfy requirements: a requirement is not UTF-8";

/// The words after the script.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    unblocking: bool,
    id: Option<String>,
    description: Option<String>,
    upgrade: bool,
    replaces: Option<String>,
    /// Requirements are installed also if they are there.
    anew: bool,
    requirements: Vec<String>,
}

impl Options {
    /// Reads the words in the order and with the texts of RedisGears 1.x.
    fn parse(words: &[&[u8]]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = |name: &str| match words.next() {
                Some(value) => Ok(String::from_utf8_lossy(value).into_owned()),
                None => Err(format!("{name} is missing")),
            };
            match word.to_ascii_uppercase().as_slice() {
                b"UNBLOCKING" => options.unblocking = true,
                b"ID" => options.id = Some(checked_id(value("ID")?)?),
                b"DESCRIPTION" => options.description = Some(value("DESCRIPTION")?),
                b"UPGRADE" => options.upgrade = true,
                b"REPLACE_WITH" => options.replaces = Some(value("REPLACE_WITH")?),
                b"FORCE_REINSTALL_REQUIREMENTS" => options.anew = true,
                b"REQUIREMENTS" => {
                    for name in words.by_ref() {
                        let name = std::str::from_utf8(name);
                        let name = name.map_err(|_| NOT_TEXT)?;
                        options.requirements.push(name.to_owned());
                    }
                }
                _ => {
                    let word = String::from_utf8_lossy(word);
                    return Err(format!("Unknown arguments were given: {word}"));
                }
            }
        }
        Ok(options)
    }
}

fn checked_id(id: String) -> Result<String, String> {
    if id
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_')
    {
        return Ok(id);
    }
    Err("ID must be compose of: ['A'-'Z' | 'a'-'z' | '0' - '9' | '-' | '_']".into())
}

/// `RG.PYEXECUTE script [UNBLOCKING] [ID id] [DESCRIPTION text] ...`
///
/// The script runs on a thread of its own: however long it takes, the server goes on.
pub(super) fn pyexecute(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    if !ctx.may_block() {
        return ctx
            .error(b"Can not run gears inside a multi exec, lua, or when blocking is not allowed");
    }
    let Some((source, words)) = args.rest().split_first() else {
        return ctx.wrong_arity();
    };
    let options = match Options::parse(words) {
        Ok(options) => options,
        Err(error) => return ctx.error(error.as_bytes()),
    };
    // Functions keep it, and it is written down.
    let Ok(user) = String::from_utf8(ctx.user()) else {
        return ctx.error(b"NOPERM a user whose name is not UTF-8 can not run functions");
    };
    let id = options.id.unwrap_or_else(random_id);
    let (upgrade, replaces) = (options.upgrade, options.replaces);
    let refused = module
        .registrations
        .refuse_session(&id, upgrade, replaces.as_deref());
    if let Some(error) = refused {
        return ctx.error(error.as_bytes());
    }
    let wanted = module
        .requirements
        .want(&options.requirements, options.anew);
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(error) => return ctx.error(error.as_bytes()),
    };
    let script = Script {
        source: source.to_vec(),
        replaces: replaces.or_else(|| upgrade.then(|| id.clone())),
        id,
        description: options.description,
        user,
        needs: Needs::default(),
    };
    let start = Start {
        module,
        script,
        unblocking: options.unblocking,
        client: ctx.block(),
    };
    match wanted {
        Wanted::Known(requirements) => {
            module.run_script(Box::new(move || start.with(requirements, false)));
        }
        Wanted::New(requirements) => module.requirements.install(Box::new(move || {
            match module.requirements.make(&requirements) {
                Ok(()) => {
                    module.run_script(Box::new(move || start.with(requirements, true)));
                }
                Err(failure) => {
                    start
                        .client
                        .reply(|ctx| ctx.error(failure.text().as_bytes()));
                }
            }
        })),
    }
}

/// A script that is ready to run.
struct Start {
    module: &'static Module,
    script: Script,
    unblocking: bool,
    client: BlockedClient,
}

impl Start {
    /// Runs it with what it needs, which was installed for it or is there already.
    fn with(mut self, requirements: Vec<Arc<Requirement>>, installed: bool) {
        let most = self.module.settings.max_install_idle();
        for requirement in &requirements {
            if !requirement.wait(most) {
                let text = Failure::Install.text().as_bytes();
                return self.client.reply(|ctx| ctx.error(text));
            }
            if !requirement.has_wheels() {
                let text = b"Failed serializing session";
                return self.client.reply(|ctx| ctx.error(text));
            }
        }
        python::prefer(&requirements);
        self.script.needs = Needs {
            uses: Uses::new(requirements),
            installed,
        };
        run(self.module, self.script, self.unblocking, self.client);
    }
}

/// Has an execution start on all shards that have what it needs. The errors of those that can not.
fn share(module: &'static Module, execution: &Execution<Cpython>) -> Result<(), String> {
    let needs = execution.plan.context.requirements();
    let listed = module.requirements.publish(needs);
    let errors = module.requirements.spread(needs);
    match errors.into_iter().next() {
        None => Ok(()),
        Some(error) => {
            module.requirements.withdraw(listed);
            Err(error)
        }
    }
}

fn run(module: &'static Module, script: Script, unblocking: bool, client: BlockedClient) {
    let end = match python::run_script(script) {
        Ok(ScriptEnd::Run(execution)) => match share(module, &execution) {
            Ok(()) => Ok(ScriptEnd::Run(execution)),
            Err(error) => {
                module.registry.discard(&execution);
                Err(error)
            }
        },
        other => other,
    };
    match end {
        Err(error) => client.reply(|ctx| ctx.error(error.as_bytes())),
        Ok(ScriptEnd::Nothing) => client.reply(|ctx| ctx.status(b"OK")),
        Ok(ScriptEnd::Registered(change, run)) => {
            let applied = module.registrations.register_everywhere(change);
            match (&applied, run) {
                // Its results are for whoever asks for them by its id.
                (Ok(()), Some(execution)) => module.registry.start(&execution, true),
                (Err(_), Some(execution)) => module.registry.discard(&execution),
                (_, None) => {}
            }
            client.reply(|ctx| match applied {
                Ok(()) => ctx.status(b"OK"),
                Err(Refusal::One(error)) => ctx.error(error.as_bytes()),
                Err(Refusal::Shards(errors)) => {
                    ctx.array(errors.len());
                    for error in errors {
                        ctx.error(error.as_bytes());
                    }
                }
            });
        }
        Ok(ScriptEnd::Run(execution)) if unblocking => {
            cluster::remember(&execution.plan.context);
            let id = execution.id.to_string();
            module.registry.start(&execution, true);
            client.reply(|ctx| reply::text(ctx, &id));
        }
        Ok(ScriptEnd::Run(execution)) => {
            cluster::remember(&execution.plan.context);
            let answer = |outcome: &std::sync::Arc<_>| {
                client.reply(|ctx| reply::outcome(ctx, outcome));
            };
            execution.when_done(Box::new(answer));
            module.registry.start(&execution, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    #[test]
    fn options_come_in_any_order_and_case_and_the_last_one_wins() {
        let options = parse(&["id", "a", "unBlocking", "ID", "ID", "DESCRIPTION", "x y"]);
        let want = Options {
            unblocking: true,
            id: Some("ID".into()),
            description: Some("x y".into()),
            ..Options::default()
        };
        assert_eq!(options, Ok(want));
    }

    #[test]
    fn wrong_words_are_named() {
        let error = |words: &[&str]| parse(words).expect_err("wrong");
        assert_eq!(error(&["ID"]), "ID is missing");
        assert_eq!(error(&["REPLACE_WITH"]), "REPLACE_WITH is missing");
        assert_eq!(error(&["DESCRIPTION"]), "DESCRIPTION is missing");
        assert_eq!(
            error(&["UNBLOCKING", "foo", "ID"]),
            "Unknown arguments were given: foo"
        );
        assert!(error(&["ID", "a@b", "foo"]).contains("must be compose of"));
        assert_eq!(parse(&["REQUIREMENTS"]), Ok(Options::default()));
        let words = [
            "FORCE_REINSTALL_REQUIREMENTS",
            "requirements",
            "a",
            "UNBLOCKING",
        ];
        let options = parse(&words).expect("good");
        assert!(options.anew && !options.unblocking);
        assert_eq!(options.requirements, ["a", "UNBLOCKING"]);
    }
}
