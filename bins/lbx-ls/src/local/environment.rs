//! One environment, from its files, and the line that tells of it.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use lbx::Name;
use lbx::path::JsonPath;
use lbx::record::{self, Borrowed, Gap, Record, SCHEMA, Unreadable};
use lbx_ls::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::live::{Load, Machine};
use super::store::{Buffer, Store};

/// An environment that there is.
pub(crate) struct Environment<'a> {
    name: &'a Name,
    pub(crate) state: State,
    holder: Option<i32>,
    kept: Kept<'a>,
}

/// What its directory keeps of it.
// one lives at a time, and boxing each costs more than moving it
#[allow(clippy::large_enum_variant)]
enum Kept<'a> {
    /// As most are.
    Borrowed(Borrowed<'a>),
    Record(Box<Record>),
    Remains(Remains),
}

impl<'a> Environment<'a> {
    /// The environment `name`, whose text lies in `buffer`; `None` when there is none.
    pub(crate) fn read(
        name: &'a Name,
        store: &Store,
        buffer: &'a mut Buffer,
        machine: &Machine,
    ) -> Option<Environment<'a>> {
        let kept = match store.record(name, buffer) {
            Ok(text) => Kept::of(text, name),
            // what cannot be had the short way is asked for the long way, which tells why
            Err(_) => Record::load(name).map(Box::new).map(Kept::Record),
        };
        let kept = match kept {
            Ok(kept) => kept,
            Err(Unreadable::Missing(Gap::NeverMade)) => return None,
            // not there yet, or not any more
            Err(Unreadable::Missing(Gap::HalfMade)) if machine.is_changing(name) => return None,
            Err(why) => Kept::Remains(Remains::of(name, &why)),
        };
        let holder = machine.holder(name);
        let state = match (&kept, holder) {
            (Kept::Remains(_), _) => State::Broken,
            (_, Some(_)) => State::Running,
            (_, None) => State::Stopped,
        };
        Some(Environment { name, state, holder, kept })
    }

    /// Its project, as far as that is known.
    pub(crate) fn project(&self) -> Option<Cow<'_, Path>> {
        match &self.kept {
            Kept::Borrowed(record) => Some(record.project().into()),
            Kept::Record(record) => Some(record.project().into()),
            Kept::Remains(remains) => remains.project().map(Cow::from),
        }
    }

    /// The value of its label `key`.
    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        let labels = match &self.kept {
            Kept::Borrowed(record) => &record.labels,
            Kept::Record(record) => &record.labels,
            Kept::Remains(_) => return None,
        };
        labels.get(key).map(String::as_str)
    }

    /// What is printed of it, with what the machine shows of it at this moment.
    pub(crate) fn line<'l>(&'l self, store: &Store, machine: &Machine, place: &'l str) -> Line<'l> {
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

    fn line_with<'l>(&'l self, live: Live<'l>) -> Line<'l> {
        match &self.kept {
            Kept::Borrowed(record) => Line::Borrowed { record, live },
            Kept::Record(record) => Line::Whole { record, live },
            Kept::Remains(remains) => Line::Broken { schema: SCHEMA, name: self.name, remains, live },
        }
    }
}

impl<'a> Kept<'a> {
    /// What `text`, the record of `name`, keeps.
    fn of(text: &'a [u8], name: &Name) -> Result<Kept<'a>, Unreadable> {
        match Borrowed::parse(text, name) {
            Some(record) => Ok(Kept::Borrowed(record)),
            None => Record::parse(text, name).map(Box::new).map(Kept::Record),
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
    Borrowed {
        #[serde(flatten)]
        record: &'a Borrowed<'a>,
        #[serde(flatten)]
        live: Live<'a>,
    },
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

    /// The text of a record, and its name.
    fn text() -> (Name, Vec<u8>) {
        let name = Name::of(Path::new("/p/a")).unwrap();
        let Environment { kept: Kept::Record(mut record), .. } = stopped(&name, "/p/a", &[("team", "web")]) else {
            unreachable!("it was made of one")
        };
        record.options.git.insert("user.name".to_owned(), "A. N. \u{d6}ther".to_owned());
        (name, serde_json::to_vec(&record).unwrap())
    }

    /// What is printed of `kept`, or why nothing is.
    fn told(kept: Result<Kept<'_>, Unreadable>) -> Result<Vec<u8>, Unreadable> {
        let kept = kept?;
        let name = Name::of(Path::new("/p/a")).unwrap();
        let environment = Environment { name: &name, state: State::Stopped, holder: None, kept };
        let live = Live { state: "stopped", last_used: None, procs: None, memory_bytes: None, place: "local" };
        let mut line = Vec::new();
        record::add_json_line(&mut line, &environment.line_with(live)).unwrap();
        Ok(line)
    }

    #[test]
    fn a_record_is_borrowed_from_as_lbx_env_wrote_it() {
        let (name, text) = text();
        assert!(matches!(Kept::of(&text, &name), Ok(Kept::Borrowed(_))));
    }

    #[test]
    fn however_a_record_was_changed_it_is_told_of_as_if_nothing_were_borrowed() {
        let (name, text) = text();
        let alike = |text: &[u8]| {
            let owned = Record::parse(text, &name).map(Box::new).map(Kept::Record);
            assert_eq!(told(Kept::of(text, &name)), told(owned), "{}", text.escape_ascii());
        };
        alike(&text);
        for at in 0..text.len() {
            alike(&text[..at]);
            for byte in *b"\0\n \"\\,:{}[]-.0123456789/aeun\x7f\xc2\xff" {
                let (mut changed, mut longer) = (text.clone(), text.clone());
                changed[at] = byte;
                longer.insert(at, byte);
                alike(&changed);
                alike(&longer);
            }
        }
        let text = String::from_utf8(text).unwrap();
        for (from, to) in [
            ("/p/a", "/p\\/a"),
            ("\"/p/a\"", "\"/p/\u{85}\",\"path_bytes\":\"L3AvYQ==\""),
            ("\"/p/a\"", "\"/p/a\",\"path_bytes\":\"L3AvYQ==\""),
            ("\"ro\":[]", "\"ro\":[\"/\u{9b}\",{\"path\":\"/?\",\"path_bytes\":\"L/8=\"}]"),
            ("\"ro\":[],", ""),
            ("\"labels\":", "\"worktree\":{\"common\":\"/p/.git\",\"own\":\"worktrees/a\"},\"labels\":"),
            ("\"labels\":", "\"later\":1,\"labels\":"),
            ("\"labels\":", "\"state\":\"running\",\"labels\":"),
            ("\"labels\":", "\"uid\":65536,\"labels\":"),
        ] {
            assert!(text.contains(from), "{from}");
            alike(text.replacen(from, to, 1).as_bytes());
        }
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
        let project = |text| broken(&name, text).project().map(Cow::into_owned);
        assert_eq!(project(r#"{"path":"/p/a"}"#), Some("/p/a".into()));
        assert_eq!(project(r#"{"path":"/?","path_bytes":"L/8="}"#).map(|p| p.as_os_str().len()), Some(2));
        assert_eq!(project(r#"{"path":"/?","path_bytes":"%"}"#), None);
        assert_eq!(project("{}"), None);
    }
}
