//! Places: where environments live (`llima-box(7)`, PLACES).

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result, fail, status};
use crate::{Name, config, path, step};

/// The variable that names the place where no option does.
pub const VARIABLE: &str = "LBX_ON";
/// The variable that tells a tool what its caller elsewhere calls this machine.
const CALLED: &str = "LBX_PLACE";
/// The Lima instance of `lima` alone.
const DEFAULT_INSTANCE: &str = "agents";

/// Where environments live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// This Linux machine.
    Local,
    /// The Lima VM of that instance.
    Lima(String),
    /// A Linux machine reached by ssh.
    Ssh(String),
}

impl Place {
    /// The place that a tool works at: option, then `LBX_ON`, then the config file, then the
    /// system's own.
    ///
    /// # Errors
    /// An unknown place; a config file that cannot be understood.
    pub fn resolve(option: Option<&Place>) -> Result<Place> {
        if let Some(place) = option {
            return Ok(place.clone());
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => {
                return text
                    .parse()
                    .map_err(|e: Failure| anyhow::Error::from(e).context(format!("{VARIABLE} is wrong")));
            }
            Ok(_) | Err(std::env::VarError::NotPresent) => {}
            Err(e) => return Err(anyhow::Error::from(e).context(format!("{VARIABLE} is wrong"))),
        }
        Ok(config::load()?.on.unwrap_or_default())
    }

    /// What the caller calls this machine, when they are at another.
    pub fn called() -> Option<Place> {
        step::carried(CALLED.as_ref())?.to_str()?.parse().ok()
    }

    /// What tells a tool at this place that its caller is elsewhere.
    pub fn call_it(&self) -> (OsString, OsString) {
        (CALLED.into(), self.to_string().into())
    }

    /// A path operand as the place knows it: a VM has this machine's paths, a machine behind ssh
    /// its own.
    ///
    /// # Errors
    /// A path that cannot be resolved, or that is not absolute where it is another machine's.
    pub fn path(&self, path: &Path) -> Result<PathBuf> {
        match self {
            Place::Ssh(_) if path.is_absolute() => Ok(path.to_owned()),
            Place::Ssh(_) => {
                let message = format!("path is not absolute: {}", path.display());
                let hint = format!("the files of '{self}' are its own");
                fail(Failure::new(message).hint(hint).status(status::USAGE))
            }
            _ => path::canonical(path),
        }
    }

    /// An ENV operand as the place knows it: a name, or a path as by [`Place::path`].
    ///
    /// # Errors
    /// As [`Place::path`].
    pub fn env(&self, env: &OsStr) -> Result<OsString> {
        match Name::parse(env) {
            Some(_) => Ok(env.to_owned()),
            None => Ok(self.path(Path::new(env))?.into()),
        }
    }

    /// `path` is the caller's, but no file system that this machine shares with theirs.
    pub fn outside(&self, path: &Path) -> Failure {
        let message = format!("path is outside the mounts of '{self}': {}", path.display());
        let mount = path::shell_quoted(path.as_os_str());
        Failure::new(message).hint(format!("lbx-vm --on {self} start --mount {mount}"))
    }
}

impl Default for Place {
    fn default() -> Self {
        match cfg!(target_os = "linux") {
            true => Place::Local,
            false => Place::Lima(DEFAULT_INSTANCE.to_owned()),
        }
    }
}

impl FromStr for Place {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Place, Failure> {
        let unknown = |why: &str| {
            Failure::new(format!("unknown place '{text}'{why}"))
                .hint("a place is local, lima, lima:INSTANCE or ssh:DESTINATION")
                .status(status::USAGE)
        };
        // a leading dash would be an option of ssh or limactl
        let named = |name: &str| match name {
            "" => Err(unknown(": nothing behind the colon")),
            name if name.starts_with('-') => Err(unknown(": it starts with a dash")),
            name if name.chars().any(|c| c.is_control() || c.is_whitespace()) => Err(unknown(": it holds white space")),
            name => Ok(name.to_owned()),
        };
        match text.split_once(':') {
            None if text == "local" => Ok(Place::Local),
            None if text == "lima" => Ok(Place::Lima(DEFAULT_INSTANCE.to_owned())),
            Some(("lima", instance)) => Ok(Place::Lima(named(instance)?)),
            Some(("ssh", destination)) => Ok(Place::Ssh(named(destination)?)),
            _ => Err(unknown("")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Local => f.write_str("local"),
            Place::Lima(instance) => write!(f, "lima:{instance}"),
            Place::Ssh(destination) => write!(f, "ssh:{destination}"),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = Failure;

    fn try_from(text: String) -> Result<Place, Failure> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        place.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_as_it_is_written() {
        for text in ["local", "lima:agents", "lima:work", "ssh:me@host", "ssh:host.example"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert_eq!("lima".parse::<Place>().unwrap(), Place::Lima("agents".into()));
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "Local", "lima:", "ssh:", "ssh", "ssh:-oProxyCommand=x", "docker:x", "lima:a b", "ssh:a\nb"] {
            assert!(text.parse::<Place>().is_err(), "{text:?}");
        }
    }
}
