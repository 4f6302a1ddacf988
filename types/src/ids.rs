//! Identities: newtypes that cannot be mixed up; each constructor holds the rule of what is valid.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number_id!(
    /// A job, numbered from 1 in the order in which the cluster accepted it.
    JobId, u64
);
number_id!(
    /// The n-th start of a job, from 1.
    AttemptNumber, u32
);
number_id!(
    /// 0-based index of a rank in its gang.
    RankIndex, u32
);
number_id!(
    /// A member of the Raft group.
    CoordinatorId, u64
);
number_id!(
    /// Position in the replicated log.
    LogIndex, u64
);
number_id!(
    /// Fencing token of an attempt: the log index of the entry that made it. A lower one is refused everywhere.
    Token, u64
);
number_id!(
    /// One life of a worker's data directory; tells a restart (same value) from a second machine with the same name.
    WorkerInstance, u64
);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} {value:?} is not valid: 1 to {max} characters of a-z, A-Z, 0-9, '.', '_' and '-', starting with a letter or digit"
)]
pub struct InvalidName {
    /// What the name was for.
    pub what: &'static str,
    /// The refused text.
    pub value: String,
    /// Longest allowed length in characters.
    pub max: usize,
}

/// The name of a worker daemon, unique in its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerId(String);

impl WorkerId {
    /// Longest name in characters: a host name label.
    pub const LENGTH_MAX: usize = 63;

    /// Accepts 1 to 63 characters of letters, digits, `.`, `_`, `-`, starting with a letter or digit.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let value = text.into();
        let starts_well = value.starts_with(|c: char| c.is_ascii_alphanumeric());
        let body_ok = value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
        if starts_well && body_ok && value.len() <= Self::LENGTH_MAX {
            Ok(Self(value))
        } else {
            Err(InvalidName { what: "worker name", value, max: Self::LENGTH_MAX })
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WorkerId {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        Self::new(value)
    }
}

impl From<WorkerId> for String {
    fn from(id: WorkerId) -> Self {
        id.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Takes exactly the right number of bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }
    };
}

bytes_id!(
    /// Chosen by a client for one mutating call; a retry carries the same one and is applied once.
    RequestId, 16
);
bytes_id!(
    /// Identity of one cluster, made when its first coordinator starts; foreign data directories are refused by it.
    ClusterId, 16
);
bytes_id!(
    /// Known to the ranks of one attempt only; proves membership in the data-plane handshake. Never shown.
    AttemptSecret, 32
);

impl fmt::Debug for AttemptSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttemptSecret(..)")
    }
}

macro_rules! hex_display {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

hex_display!(RequestId);
hex_display!(ClusterId);

/// Not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster's identity is 32 hexadecimal digits")]
pub struct InvalidClusterId;

impl FromStr for ClusterId {
    type Err = InvalidClusterId;
    fn from_str(text: &str) -> Result<Self, InvalidClusterId> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(InvalidClusterId);
        }
        u128::from_str_radix(text, 16).map(|number| Self(number.to_be_bytes())).map_err(|_| InvalidClusterId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_names_follow_the_rule() {
        for good in ["a", "gpu-01.rack3", "W_1", "0a"] {
            assert!(WorkerId::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(64);
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", long.as_str()] {
            assert!(WorkerId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", AttemptSecret([7; 32])), "AttemptSecret(..)");
    }
}
