//! RG.CONFIGGET and RG.CONFIGSET: one element of the reply for each setting.

use crate::redis::Module;
use crate::redis::config::{Set, Value};
use crate::redis::raw::{Args, Ctx};

/// `RG.CONFIGGET name ...`
pub(super) fn config_get(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    ctx.array(args.rest().len());
    for name in args.rest() {
        match module.settings.get(name) {
            Value::Number(number) => ctx.integer(number),
            Value::Text(text) => ctx.bulk(&text),
            Value::List(values) => {
                ctx.array(values.len());
                for value in values {
                    ctx.bulk(&value);
                }
            }
            Value::Unknown => {
                let name = String::from_utf8_lossy(name);
                ctx.error(format!("(error) Unsupported config parameter: {name}").as_bytes());
            }
        }
    }
}

/// `RG.CONFIGSET name value ...`
pub(super) fn config_set(module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let pairs = args.rest().chunks(2);
    ctx.array(pairs.len());
    for pair in pairs {
        let Some((name, value)) = pair.split_first() else {
            continue;
        };
        match module.settings.set(name, value.first().copied()) {
            Set::Done => ctx.status(b"OK"),
            Set::Extra => ctx.status(b"OK - value was saved in extra config dictionary"),
            Set::Refused(error) => ctx.error(error.as_bytes()),
        }
    }
}
