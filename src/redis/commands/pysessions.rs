//! RG.PYDUMPSESSIONS: the sessions of this shard.

use super::registrations::{describe, text_or_null};
use super::requirements::{self, Holders};
use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};
use crate::redis::registrations::ListedSession;
use crate::redis::reply;

/// The words of the command.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options<'a> {
    verbose: bool,
    dead: bool,
    /// Only these, in this order.
    only: Option<&'a [&'a [u8]]>,
}

impl<'a> Options<'a> {
    fn parse(words: &'a [&'a [u8]]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = words;
        while let [word, after @ ..] = rest {
            rest = after;
            match word.to_ascii_uppercase().as_slice() {
                b"VERBOSE" => options.verbose = true,
                b"DEAD" => options.dead = true,
                b"SESSIONS" => {
                    options.only = Some(std::mem::take(&mut rest));
                }
                _ => return Err(format!("Unknown option {}", String::from_utf8_lossy(word))),
            }
        }
        Ok(options)
    }
}

/// `RG.PYDUMPSESSIONS [VERBOSE] [DEAD] [SESSIONS id ...]`
pub(super) fn dump_sessions(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let options = match Options::parse(args.rest()) {
        Ok(options) => options,
        Err(error) => return ctx.error(error.as_bytes()),
    };
    let linked = options.only.is_some() || !options.dead;
    let mut all = module.registrations.list_sessions();
    all.retain(|listed| listed.linked == linked);
    let Some(ids) = options.only else {
        ctx.array(all.len());
        for listed in &all {
            dump(module, ctx, listed, options.verbose);
        }
        return;
    };
    ctx.array(ids.len());
    for id in ids {
        match all
            .iter()
            .find(|listed| listed.session.id().as_bytes() == *id)
        {
            Some(listed) => dump(module, ctx, listed, options.verbose),
            None => {
                let id = String::from_utf8_lossy(id);
                reply::text(ctx, &format!("Session {id} does not exists"));
            }
        }
    }
}

fn dump(module: &'static Module, ctx: Ctx<'_>, listed: &ListedSession, verbose: bool) {
    let session = &listed.session;
    ctx.array(16);
    reply::field(ctx, "ID", session.id());
    reply::text(ctx, "sessionDescription");
    text_or_null(ctx, session.description());
    reply::number(ctx, "refCount", listed.references as u64);
    reply::field(ctx, "linked", listed.place());
    reply::field(ctx, "dead", if listed.linked { "false" } else { "true" });
    reply::number(
        ctx,
        "requirementInstallationNeeded",
        session.needed_installation().into(),
    );
    let requirements = session.requirements();
    reply::text(ctx, "requirements");
    ctx.array(requirements.len());
    for requirement in requirements {
        if verbose {
            requirements::describe(ctx, requirement, Holders::of(module, requirement));
        } else {
            reply::text(ctx, requirement.name());
        }
    }
    reply::text(ctx, "registrations");
    ctx.array(listed.registrations.len());
    for &id in &listed.registrations {
        let registration = verbose.then(|| module.registrations.listed(id)).flatten();
        match registration {
            Some(registration) => {
                let version = module.settings.reply_version();
                describe(ctx, &registration, version, false);
            }
            // One that was removed, of which something runs, has only its id left.
            None => reply::text(ctx, &id.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    #[test]
    fn what_follows_sessions_are_ids() {
        let words: [&[u8]; 5] = [b"dead", b"Verbose", b"SESSIONS", b"DEAD", b"foo"];
        let want = Options {
            verbose: true,
            dead: true,
            only: Some(&words[3..]),
        };
        assert_eq!(Options::parse(&words), Ok(want));
    }

    #[test]
    fn the_first_unknown_word_is_named() {
        let words: [&[u8]; 3] = [b"VERBOSE", b"TS", b"foo"];
        assert_eq!(Options::parse(&words), Err("Unknown option TS".to_owned()));
        let none: [&[u8]; 1] = [b"SESSIONS"];
        let options = Options::parse(&none).expect("right");
        assert_eq!(options.only, Some::<&[&[u8]]>(&[]));
    }
}
