//! What listings show of registrations and their sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Entry, Fires, Function, ListedSession, Registrations};
use crate::engine::Id;
use crate::python::Requirement;
use crate::redis::config::ReplyVersion;

impl Registrations {
    /// All registrations with what a listing shows, in the order in which they were registered. The
    /// server lock is held.
    pub(in crate::redis) fn list(&self) -> Vec<Listed> {
        let sessions = self.list_sessions();
        let version = self.settings.reply_version();
        let texts: HashMap<_, _> = sessions
            .iter()
            .map(|listed| (Arc::as_ptr(&listed.session), listed.text(version)))
            .collect();
        let state = self.state();
        let list = state.entries.values().map(|entry| {
            let text = texts.get(&Arc::as_ptr(&entry.function.plan.context));
            Listed {
                session: text.cloned().unwrap_or_default(),
                ..Listed::of(entry)
            }
        });
        list.collect()
    }

    /// One of them, without its session. The server lock is held.
    pub(in crate::redis) fn listed(&self, id: Id) -> Option<Listed> {
        let state = self.state();
        let entry = state.entries.get(state.order_of.get(&id)?);
        entry.map(Listed::of)
    }
}

/// A registration in a listing.
pub(in crate::redis) struct Listed {
    pub(in crate::redis) function: Arc<Function>,
    /// Of a stream function.
    pub(in crate::redis) status: &'static str,
    /// The session.
    pub(in crate::redis) session: String,
}

impl Listed {
    fn of(entry: &Entry) -> Self {
        Self {
            function: entry.function.clone(),
            status: match &entry.fires {
                Fires::Stream(consumer) => consumer.status(),
                _ => "OK",
            },
            session: String::new(),
        }
    }
}

impl ListedSession {
    /// It as one text: that of RedisGears 1.2.13, or for clients of older releases a Python literal.
    pub(in crate::redis) fn text(&self, version: ReplyVersion) -> String {
        let session = &self.session;
        let newest = version == ReplyVersion::V1_2_13;
        let quoted: fn(&str) -> String = if newest { plain_text } else { python_text };
        let ids = self.registrations.iter().map(|id| format!("'{id}'"));
        let needs = session.requirements().iter();
        let needs = needs.map(|one| requirement_text(one, quoted));
        let join = |list: Vec<String>| list.join(",");
        let id = quoted(session.id());
        let (name, place, dead) = if newest {
            let dead = if self.linked { "false" } else { "true" };
            (format!("'sessionName':{id}"), self.place().to_owned(), dead)
        } else {
            let names = format!("'sessionId':{id}, 'sessionName':{id}");
            let dead = if self.linked { "False" } else { "True" };
            (names, format!("'{}'", self.place()), dead)
        };
        format!(
            "{{{name}, 'sessionDescription':{}, 'refCount': {}, 'linkedTo': {place}, \
             'dead': {dead}, 'isInstallationNeeded':{}, 'registrationsList':[{}], 'depsList':[{}]}}",
            quoted(session.description().unwrap_or("null")),
            self.references,
            u8::from(session.needed_installation()),
            join(ids.collect()),
            join(needs.collect()),
        )
    }

    /// Where it is.
    pub(in crate::redis) fn place(&self) -> &'static str {
        if self.linked { "primary" } else { "None" }
    }
}

/// A requirement in the text of a session.
fn requirement_text(requirement: &Requirement, quoted: fn(&str) -> String) -> String {
    let wheels = requirement.wheels().unwrap_or_default();
    let wheels: Vec<_> = wheels.iter().map(|wheel| quoted(wheel)).collect();
    format!(
        "{{'name':{}, 'basePath':{}, 'wheels':[{}]}}",
        quoted(requirement.name()),
        quoted(&requirement.folder().to_string_lossy()),
        wheels.join(","),
    )
}

/// A text in quotes, as it is.
fn plain_text(text: &str) -> String {
    format!("'{text}'")
}

/// A text as a Python literal.
fn python_text(text: &str) -> String {
    let mut literal = String::from("'");
    for character in text.chars() {
        match character {
            '\'' | '\\' => {
                literal.push('\\');
                literal.push(character);
            }
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\0' => literal.push_str("\\x00"),
            _ => literal.push(character),
        }
    }
    literal.push('\'');
    literal
}

#[cfg(test)]
mod tests {
    use super::python_text;

    #[test]
    fn texts_become_python_literals() {
        assert_eq!(python_text("it's"), r"'it\'s'");
        assert_eq!(python_text("a\\\n"), r"'a\\\n'");
    }
}
