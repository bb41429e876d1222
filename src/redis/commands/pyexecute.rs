//! RG.PYEXECUTE: a script, and the function it builds.

use crate::engine::random_id;
use crate::python::{self, Script, ScriptEnd};
use crate::redis::raw::{Args, BlockedClient, Ctx};
use crate::redis::registrations::Refusal;
use crate::redis::reply;
use crate::redis::{Module, cluster};

/// The words after the script.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    unblocking: bool,
    id: Option<String>,
    description: Option<String>,
    upgrade: bool,
    replaces: Option<String>,
    /// Options whose feature does not exist yet.
    later: Option<&'static str>,
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
                b"FORCE_REINSTALL_REQUIREMENTS" => {
                    options.later = Some("FORCE_REINSTALL_REQUIREMENTS");
                }
                b"REQUIREMENTS" => {
                    if words.len() > 0 {
                        options.later = Some("REQUIREMENTS");
                    }
                    break;
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
    if let Some(option) = options.later {
        let error = format!("ERR {option} is not available yet: it comes with a later version");
        return ctx.error(error.as_bytes());
    }
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
    let script = Script {
        source: source.to_vec(),
        replaces: replaces.or_else(|| upgrade.then(|| id.clone())),
        id,
        description: options.description,
        user,
    };
    let client = ctx.block();
    let unblocking = options.unblocking;
    module.run_script(Box::new(move || run(module, script, unblocking, client)));
}

fn run(module: &'static Module, script: Script, unblocking: bool, client: BlockedClient) {
    match python::run_script(script) {
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
        assert_eq!(
            parse(&["REQUIREMENTS", "x"]).map(|o| o.later),
            Ok(Some("REQUIREMENTS"))
        );
    }
}
