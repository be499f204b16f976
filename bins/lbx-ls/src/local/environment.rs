//! One environment, from its files, and the line that tells of it.

use std::path::PathBuf;

use lbx::Name;
use lbx::path::JsonPath;
use lbx::record::{self, Gap, Record, SCHEMA, Unreadable};
use lbx_ls::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::live::{Load, Machine};
use super::store::Store;

/// An environment that there is.
pub(crate) struct Environment<'a> {
    name: &'a Name,
    pub(crate) state: State,
    holder: Option<i32>,
    kept: Kept,
}

/// What its directory keeps of it.
enum Kept {
    Record(Box<Record>),
    Remains(Remains),
}

impl<'n> Environment<'n> {
    /// The environment `name`; `None` when there is none.
    pub(crate) fn read(name: &'n Name, store: &mut Store, machine: &Machine) -> Option<Environment<'n>> {
        let text = store.record(name);
        // what cannot be had the short way is asked for the long way, which tells why
        let record = text.map_or_else(|_| Record::load(name), |text| Record::parse(text, name));
        let kept = match record {
            Ok(record) => Kept::Record(Box::new(record)),
            Err(Unreadable::Missing(Gap::NeverMade)) => return None,
            // not there yet, or not any more
            Err(Unreadable::Missing(Gap::HalfMade)) if machine.is_changing(name) => return None,
            Err(why) => Kept::Remains(Remains::of(name, &why)),
        };
        let holder = machine.holder(name);
        let state = match (&kept, holder) {
            (Kept::Remains(_), _) => State::Broken,
            (Kept::Record(_), Some(_)) => State::Running,
            (Kept::Record(_), None) => State::Stopped,
        };
        Some(Environment { name, state, holder, kept })
    }

    /// Its project, as far as that is known.
    pub(crate) fn project(&self) -> Option<PathBuf> {
        match &self.kept {
            Kept::Record(record) => Some(record.project()),
            Kept::Remains(remains) => remains.project(),
        }
    }

    /// The value of its label `key`.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        match &self.kept {
            Kept::Record(record) => record.labels.get(key).map(String::as_str),
            Kept::Remains(_) => None,
        }
    }

    /// What is printed of it, with what the machine shows of it at this moment.
    pub(crate) fn line<'a>(&'a self, store: &Store, machine: &Machine, place: &'a str) -> Line<'a> {
        let load = match (self.state, self.holder) {
            (State::Running, Some(holder)) => machine.load(self.name, holder),
            (State::Stopped, _) => Some(Load::NONE),
            _ => None,
        };
        let live = Live {
            state: self.state.as_str(),
            last_used: store.last_used(self.name).map(record::rfc3339).ok(),
            procs: load.map(|load| load.procs),
            memory_bytes: load.and_then(|load| load.memory_bytes),
            place,
        };
        self.line_with(live)
    }

    fn line_with<'a>(&'a self, live: Live<'a>) -> Line<'a> {
        match &self.kept {
            Kept::Record(record) => Line::Whole { record, live },
            Kept::Remains(remains) => Line::Broken { schema: SCHEMA, name: self.name, remains, live },
        }
    }
}

/// What can be told of an environment whose record is not to be relied on.
#[derive(Serialize)]
pub(crate) struct Remains {
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    uid: Option<u32>,
    error: String,
}

impl Remains {
    fn of(name: &Name, why: &Unreadable) -> Remains {
        let text = std::fs::read(record::file(name)).or_else(|_| std::fs::read(record::deleted_file(name)));
        Remains::from_text(&text.unwrap_or_default(), why)
    }

    fn from_text(text: &[u8], why: &Unreadable) -> Remains {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let string = |key| value.get(key).and_then(Value::as_str).map(str::to_owned);
        Remains {
            path: string("path"),
            path_bytes: string("path_bytes"),
            uid: value.get("uid").and_then(Value::as_u64).and_then(|uid| u32::try_from(uid).ok()),
            error: why.to_string(),
        }
    }

    fn project(&self) -> Option<PathBuf> {
        let path = self.path.as_ref()?;
        let value = match &self.path_bytes {
            Some(bytes) => json!({ "path": path, "path_bytes": bytes }),
            None => json!(path),
        };
        Some(serde_json::from_value::<JsonPath>(value).ok()?.0)
    }
}

/// One line of output: `lbx-record(5)`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Line<'a> {
    Whole {
        #[serde(flatten)]
        record: &'a Record,
        #[serde(flatten)]
        live: Live<'a>,
    },
    Broken {
        schema: u32,
        name: &'a Name,
        #[serde(flatten)]
        remains: &'a Remains,
        #[serde(flatten)]
        live: Live<'a>,
    },
}

/// What no record keeps; null where it is not known.
#[derive(Serialize)]
pub(crate) struct Live<'a> {
    state: &'static str,
    last_used: Option<String>,
    procs: Option<u64>,
    memory_bytes: Option<u64>,
    place: &'a str,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use lbx::record::{Options, Origin, Owner, Ownership};
    use std::path::Path;

    /// A stopped environment of `path` with `labels`.
    pub(crate) fn stopped<'a>(name: &'a Name, path: &str, labels: &[(&str, &str)]) -> Environment<'a> {
        let origin = Origin {
            name: name.clone(),
            path: path.into(),
            owner: Owner { uid: 1000, gid: 1000, device: 1 },
            ownership: Ownership::Idmap,
            creator: 1000,
        };
        let mut record = Record::new(origin, 65536, 65536, "/bin/sh".into(), Options::default());
        record.labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Environment { name, state: State::Stopped, holder: None, kept: Kept::Record(Box::new(record)) }
    }

    /// A broken one, of which `text` is left.
    pub(crate) fn broken<'a>(name: &'a Name, text: &str) -> Environment<'a> {
        let kept = Kept::Remains(Remains::from_text(text.as_bytes(), &Unreadable::Broken("it is".to_owned())));
        Environment { name, state: State::Broken, holder: None, kept }
    }

    fn json(environment: &Environment) -> Value {
        let live = Live {
            state: environment.state.as_str(),
            last_used: None,
            procs: None,
            memory_bytes: None,
            place: "local",
        };
        serde_json::to_value(environment.line_with(live)).unwrap()
    }

    #[test]
    fn a_line_is_the_record_and_what_is_live() {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let line = json(&stopped(&name, "/p/a", &[("team", "web")]));
        assert_eq!((&line["name"], &line["path"]), (&json!(name.as_str()), &json!("/p/a")));
        assert_eq!((&line["labels"], &line["state"]), (&json!({"team": "web"}), &json!("stopped")));
        assert_eq!((&line["procs"], &line["place"]), (&Value::Null, &json!("local")));
        assert!(line.as_object().unwrap().contains_key("memory_bytes"));
    }

    #[test]
    fn of_a_broken_one_is_told_what_could_be_read() {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let line = json(&broken(&name, r#"{"schema":9,"path":"/p/a","uid":65536,"labels":7}"#));
        assert_eq!((&line["schema"], &line["state"]), (&json!(SCHEMA), &json!("broken")));
        assert_eq!((&line["path"], &line["uid"], &line["error"]), (&json!("/p/a"), &json!(65536), &json!("it is")));
        for text in ["", "{", "[]", r#"{"path":7,"uid":-1}"#] {
            let line = json(&broken(&name, text));
            assert_eq!((&line["path"], &line["uid"]), (&Value::Null, &Value::Null), "{text}");
        }
    }

    #[test]
    fn a_broken_one_may_still_know_its_project() {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let project = |text| broken(&name, text).project();
        assert_eq!(project(r#"{"path":"/p/a"}"#), Some("/p/a".into()));
        assert_eq!(project(r#"{"path":"/?","path_bytes":"L/8="}"#).map(|p| p.as_os_str().len()), Some(2));
        assert_eq!(project(r#"{"path":"/?","path_bytes":"%"}"#), None);
        assert_eq!(project("{}"), None);
    }
}
