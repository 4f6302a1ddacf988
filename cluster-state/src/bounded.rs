//! Reads the tables and the commands out of bytes that claim anything: no more room is asked for than the bytes themselves fill.
//!
//! The maps' own reading asks for room for as many rows as the bytes say there are, before there is one: 2^40 of them end the process.
//! Here room grows with the rows that were read, and what claims more of them than there are ends in an error. Each table of `imbl` that is read
//! names one of these: `#[serde(deserialize_with = "crate::bounded::map")]`, or `list`; a test fails where one does not. What is the
//! standard library's needs none: serde asks for 1 MiB for these at most, and has more as rows are read.
//!
//! A command in somebody's name holds another one. One that held such a one, that one a third, and so on, would take as much stack as
//! somebody likes to write; so it is refused before it is read.

use crate::Command;
use serde::de::value::{EnumAccessDeserializer, U32Deserializer};
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use std::fmt;
use std::marker::PhantomData;

/// The place of `Command::As` among the commands.
const AS: u32 = 17;

/// For a table of keys and rows.
pub(crate) fn map<'de, D, C, K, V>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: FromIterator<(K, V)> + IntoIterator<Item = (K, V)>,
    K: Deserialize<'de>,
    V: Deserialize<'de>,
{
    deserializer.deserialize_map(Map(PhantomData))
}

/// For a table of rows alone.
pub(crate) fn list<'de, D, C, A>(deserializer: D) -> Result<C, D::Error>
where
    D: Deserializer<'de>,
    C: FromIterator<A> + IntoIterator<Item = A>,
    A: Deserialize<'de>,
{
    deserializer.deserialize_seq(List(PhantomData))
}

/// For a command that another one holds: any but one that holds a command itself.
pub(crate) fn held_command<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<Command>, D::Error> {
    deserializer.deserialize_enum("Command", &[], Held).map(Box::new)
}

struct Map<C, K, V>(PhantomData<(C, K, V)>);

impl<'de, C, K, V> Visitor<'de> for Map<C, K, V>
where
    C: FromIterator<(K, V)>,
    K: Deserialize<'de>,
    V: Deserialize<'de>,
{
    type Value = C;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of keys and rows")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut rows: M) -> Result<C, M::Error> {
        let mut read = Vec::new();
        while let Some(row) = rows.next_entry()? {
            read.push(row);
        }
        Ok(read.into_iter().collect())
    }
}

struct List<C, A>(PhantomData<(C, A)>);

impl<'de, C, A> Visitor<'de> for List<C, A>
where
    C: FromIterator<A>,
    A: Deserialize<'de>,
{
    type Value = C;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of rows")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut rows: S) -> Result<C, S::Error> {
        let mut read = Vec::new();
        while let Some(row) = rows.next_element()? {
            read.push(row);
        }
        Ok(read.into_iter().collect())
    }
}

struct Held;

impl<'de> Visitor<'de> for Held {
    type Value = Command;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command in nobody's name")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, command: A) -> Result<Command, A::Error> {
        let (place, rest) = command.variant()?;
        if place == AS {
            return Err(A::Error::custom("a command is made in one name only"));
        }
        Command::deserialize(EnumAccessDeserializer::new(Placed { place, rest }))
    }
}

/// A command whose place was read.
struct Placed<V> {
    place: u32,
    rest: V,
}

impl<'de, V: VariantAccess<'de>> EnumAccess<'de> for Placed<V> {
    type Error = V::Error;
    type Variant = V;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, V), V::Error> {
        let place: U32Deserializer<V::Error> = self.place.into_deserializer();
        Ok((seed.deserialize(place)?, self.rest))
    }
}
