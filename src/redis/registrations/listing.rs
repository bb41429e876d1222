//! What listings show of registrations and their sessions.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Fires, Function, Linked, Registrations};
use crate::python::Requirement;

impl Registrations {
    /// All registrations with what a listing shows, in the order in which they were registered. The
    /// server lock is held.
    pub(in crate::redis) fn list(&self) -> Vec<Listed> {
        let texts: HashMap<String, String> = self.list_sessions().into_iter().collect();
        let state = self.state();
        let list = state.entries.values().map(|entry| Listed {
            function: entry.function.clone(),
            status: match &entry.fires {
                Fires::Stream(consumer) => consumer.status(),
                _ => "OK",
            },
            session: texts.get(&entry.wire.session).cloned().unwrap_or_default(),
        });
        list.collect()
    }
}

impl Registrations {
    /// Id and text of each session with registrations. The server lock is held.
    pub(in crate::redis) fn list_sessions(&self) -> Vec<(String, String)> {
        let state = self.state();
        let executions = self.registry.list();
        let text = |(id, linked): (&String, &Linked)| {
            let runs = executions
                .iter()
                .filter(|execution| Arc::ptr_eq(&*execution.plan.context, &linked.session));
            (id.clone(), session_text(linked, runs.count()))
        };
        state.sessions.iter().map(text).collect()
    }
}

/// A registration in a listing.
pub(in crate::redis) struct Listed {
    pub(in crate::redis) function: Arc<Function>,
    /// Of a stream function.
    pub(in crate::redis) status: &'static str,
    /// The session, as a Python literal.
    pub(in crate::redis) session: String,
}

/// A session as a Python literal.
fn session_text(linked: &Linked, runs: usize) -> String {
    let session = &linked.session;
    let ids: Vec<_> = linked
        .registrations
        .iter()
        .map(|id| format!("'{id}'"))
        .collect();
    let needs = session.requirements().iter();
    let requirements: Vec<_> = needs.map(|one| requirement_text(one)).collect();
    format!(
        "{{'sessionId':{id}, 'sessionName':{id}, 'sessionDescription':{}, 'refCount': {}, \
         'linkedTo': 'primary', 'dead': False, 'isInstallationNeeded':{}, \
         'registrationsList':[{}], 'depsList':[{}]}}",
        python_text(session.description().unwrap_or("null")),
        linked.registrations.len() + runs,
        u8::from(session.needed_installation()),
        ids.join(","),
        requirements.join(","),
        id = python_text(session.id()),
    )
}

/// A requirement as a Python literal.
fn requirement_text(requirement: &Requirement) -> String {
    let wheels = requirement.wheels().unwrap_or_default();
    let wheels: Vec<_> = wheels.iter().map(|wheel| python_text(wheel)).collect();
    format!(
        "{{'name':{}, 'basePath':{}, 'wheels':[{}]}}",
        python_text(requirement.name()),
        python_text(&requirement.folder().to_string_lossy()),
        wheels.join(","),
    )
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
