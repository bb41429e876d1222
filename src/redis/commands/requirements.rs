//! Requirements: listed, exported, imported.

use crate::engine::MAX_IDLE;
use crate::engine::wire::RequirementWire;
use crate::python::{Payload, Requirement};
use crate::redis::Module;
use crate::redis::config::ReplyVersion;
use crate::redis::raw::{Args, Ctx, Info};
use crate::redis::reply;
use crate::redis::requirements::new_build;

/// Of the format of descriptions.
const VERSION: u64 = 2;

const NO_WHEELS: &str = "Requirement was not yet downloaded so wheels are not available";

/// The text of RedisGears 1.x for a shard that can not install what is imported.
const NOT_IMPORTED: &str = "Failed install requirement on shard, check shard log for more info.";

const NO_FILE: &str = "Failed open file for write";

fn yes(so: bool) -> &'static str {
    if so { "yes" } else { "no" }
}

/// Who holds a requirement.
#[derive(Clone, Copy)]
pub(super) struct Holders {
    /// The list.
    listed: bool,
    /// Sessions, and commands.
    users: usize,
}

impl Holders {
    /// Those of now. The server lock is held.
    pub(super) fn of(module: &Module, requirement: &Requirement) -> Self {
        Self {
            listed: module.requirements.is_listed(requirement),
            users: module.registrations.users_of(requirement),
        }
    }

    fn references(self) -> u64 {
        self.users as u64 + u64::from(self.listed)
    }
}

/// A requirement, as listings show it.
pub(super) fn describe(ctx: Ctx<'_>, requirement: &Requirement, holders: Holders) {
    ctx.array(18);
    reply::number(ctx, "GearReqVersion", VERSION);
    describe_wheels(ctx, requirement);
    reply::field(ctx, "Path", &requirement.folder().to_string_lossy());
    reply::number(ctx, "RefCount", holders.references());
    reply::field(ctx, "IsInReqDictionary", yes(holders.listed));
}

/// The same, as older releases had it.
fn describe_as_of_old(ctx: Ctx<'_>, requirement: &Requirement) {
    ctx.array(12);
    reply::number(ctx, "GearReqVersion", 1);
    describe_wheels(ctx, requirement);
}

fn describe_wheels(ctx: Ctx<'_>, requirement: &Requirement) {
    let wheels = requirement.wheels();
    reply::field(ctx, "Name", requirement.name());
    reply::field(ctx, "IsDownloaded", yes(wheels.is_some()));
    reply::field(ctx, "IsInstalled", yes(requirement.is_installed()));
    reply::field(ctx, "CompiledOs", &requirement.os());
    reply::text(ctx, "Wheels");
    match wheels {
        Some(wheels) => {
            ctx.array(wheels.len());
            for wheel in wheels {
                reply::text(ctx, &wheel);
            }
        }
        None => reply::text(ctx, NO_WHEELS),
    }
}

/// A requirement in INFO.
pub(in crate::redis) fn info(module: &Module, info: &Info, requirement: &Requirement) {
    let holders = Holders::of(module, requirement);
    let wheels = requirement.wheels();
    let quoted: Vec<_> = wheels.iter().flatten().map(|w| format!("'{w}'")).collect();
    let text = format!(
        "IsDownloaded={},IsInstalled={},CompiledOs={},Wheels=[{}],Path={},RefCount={},\
         IsInReqDictionary={}",
        yes(wheels.is_some()),
        yes(requirement.is_installed()),
        requirement.os(),
        quoted.join("|"),
        requirement.folder().display(),
        holders.references(),
        yes(holders.listed),
    );
    info.named_text(&crate::python::shown(requirement.name()), &text);
}

/// `RG.PYDUMPREQS`
pub(super) fn dump(module: &'static Module, ctx: Ctx<'_>, _args: &Args<'_>) {
    let all = module.requirements.list();
    let old = module.settings.reply_version() < ReplyVersion::V1_2_13;
    ctx.array(all.len());
    for requirement in all {
        if old {
            describe_as_of_old(ctx, &requirement);
            continue;
        }
        describe(ctx, &requirement, Holders::of(module, &requirement));
    }
}

/// `RG.PYEXPORTREQ name`
pub(super) fn export(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let [name] = args.rest() else {
        return ctx.wrong_arity();
    };
    let name = String::from_utf8_lossy(name);
    let Some(requirement) = module.requirements.named(&name) else {
        return ctx.error(b"requirement does not exists");
    };
    if requirement.wheels().is_none() {
        return ctx.error(b"Requirement was not installed yet");
    }
    let mut holders = Holders::of(module, &requirement);
    holders.users += 1;
    if !ctx.may_block() {
        return answer_export(ctx, &requirement, holders, read(&requirement));
    }
    let client = ctx.block();
    // Wheels are read where nobody waits for it.
    module.run(Box::new(move || {
        let payload = read(&requirement);
        client.reply(|ctx| answer_export(ctx, &requirement, holders, payload));
    }));
}

/// A requirement with its wheels, as bytes.
fn read(requirement: &Requirement) -> Result<Vec<u8>, String> {
    let mut wheels = Vec::new();
    for file in requirement.wheels().unwrap_or_default() {
        let path = requirement.wheel(&file);
        let content = std::fs::read(&path);
        let content = content.map_err(|_| format!("Could not open file {}", path.display()))?;
        wheels.push((file, content));
    }
    let payload = Payload {
        name: requirement.name().to_owned(),
        os: requirement.os(),
        listed: true,
        wheels,
    };
    Ok(payload.encode())
}

fn answer_export(
    ctx: Ctx<'_>,
    requirement: &Requirement,
    holders: Holders,
    payload: Result<Vec<u8>, String>,
) {
    let payload = match payload {
        Ok(payload) => payload,
        Err(error) => return ctx.error(error.as_bytes()),
    };
    ctx.array(2);
    describe(ctx, requirement, holders);
    let chunks = Payload::chunks(&payload);
    ctx.array(chunks.len());
    for chunk in chunks {
        ctx.bulk(chunk);
    }
}

/// `RG.PYIMPORTREQ chunk ...`
pub(super) fn import(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let bytes = args.rest().concat();
    if !ctx.may_block() {
        return match Payload::decode(&bytes) {
            Ok(_) => ctx.would_block(),
            Err(error) => ctx.error(error.as_bytes()),
        };
    }
    let client = ctx.block();
    module.run(Box::new(move || {
        let imported = install(module, &bytes);
        client.reply(|ctx| match imported {
            Ok(()) => ctx.bulk(b"OK"),
            Err(error) => ctx.error(error.as_bytes()),
        });
    }));
}

/// Installs what is imported here and on all other shards. The error is for the client.
fn install(module: &'static Module, bytes: &[u8]) -> Result<(), String> {
    let requirements = module.requirements;
    let payload = Payload::decode(bytes).map_err(str::to_owned)?;
    requirements
        .check(&payload.name)
        .map_err(|why| format!("{NOT_IMPORTED} {why}"))?;
    let known = module.lock.with(|_| {
        let known = requirements.named(&payload.name);
        known.filter(|known| payload.listed && !known.is_failed())
    });
    let (requirement, installed) = match known {
        Some(known) => {
            let installed = known.wait(module.settings.max_install_idle());
            (known, installed)
        }
        None => {
            let wire = RequirementWire {
                name: payload.name.clone(),
                build: new_build(),
            };
            let made = module.lock.with(|_| requirements.create(&wire));
            let made = made.map_err(|_| NO_FILE)?;
            write(&made, payload)?;
            let installed = requirements.install_received(&made);
            (made, installed)
        }
    };
    let one = std::slice::from_ref(&requirement);
    if !installed {
        return Err(NOT_IMPORTED.into());
    }
    requirements.publish(one);
    match requirements.spread(one).first() {
        None => Ok(()),
        Some(error) if error == MAX_IDLE => Err(MAX_IDLE.into()),
        Some(_) => Err(NOT_IMPORTED.into()),
    }
}

fn write(requirement: &Requirement, payload: Payload) -> Result<(), &'static str> {
    requirement.create_folder().map_err(|_| NO_FILE)?;
    let mut files = Vec::new();
    for (file, content) in payload.wheels {
        let mut wheel = requirement.create_wheel(&file).map_err(|_| NO_FILE)?;
        std::io::Write::write_all(&mut wheel, &content)
            .map_err(|_| "Failed writing data to file")?;
        files.push(file);
    }
    requirement.received(payload.os, files);
    Ok(())
}

/// `RG.INNERREQUIREMENT`, from the master or the AOF.
pub(super) fn inner(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    module.requirements.inner_requirement(ctx, args);
}
