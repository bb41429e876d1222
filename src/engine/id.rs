//! Identifiers as users see them: forty characters of shard id, `-`, a decimal counter.

use std::fmt;

/// Length of a shard id in characters.
const SHARD_LEN: usize = 40;

/// Forty characters that name a server: its cluster node id, or zeros outside a cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId([u8; SHARD_LEN]);

impl ShardId {
    /// The id of a server that is in no cluster.
    pub const ALONE: Self = Self([b'0'; SHARD_LEN]);

    /// The id that these bytes are, if they can be one.
    pub fn parse(id: &[u8]) -> Option<Self> {
        let id: [u8; SHARD_LEN] = id.try_into().ok()?;
        id.iter().all(u8::is_ascii_graphic).then_some(Self(id))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Forty random characters that nobody can guess.
pub fn random_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.push_str(&uuid::Uuid::new_v4().simple().to_string()[..8]);
    id
}

/// Names one execution, or one registration, on all shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Id {
    /// The shard that made it.
    pub shard: ShardId,
    /// Counts those of that shard, from 0.
    pub number: u64,
}

impl Id {
    /// Reads an id. `None` for anything that cannot be one; what follows the number is
    /// ignored, as RedisGears 1.x does.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (shard, rest) = text.split_at_checked(SHARD_LEN)?;
        let digits = rest.strip_prefix(b"-")?;
        let end = digits
            .iter()
            .position(|c| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        let number = std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()?;
        let shard = ShardId::parse(shard)?;
        Some(Self { shard, number })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.shard, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_are_forty_hexadecimal_characters() {
        let id = random_id();
        assert_eq!(id.len(), SHARD_LEN);
        let hexadecimal = |c: u8| c.is_ascii_hexdigit() && !c.is_ascii_uppercase();
        assert!(id.bytes().all(hexadecimal), "{id}");
    }

    #[test]
    fn an_id_reads_what_it_writes() {
        let id = Id {
            shard: ShardId::ALONE,
            number: 17,
        };
        assert_eq!(id.to_string(), format!("{}-17", "0".repeat(40)));
        assert_eq!(Id::parse(id.to_string().as_bytes()), Some(id));
    }

    #[test]
    fn what_follows_the_number_is_ignored_and_the_rest_is_not_an_id() {
        let zeros = "0".repeat(40);
        let parse = |text: String| Id::parse(text.as_bytes()).map(|id| id.number);
        assert_eq!(parse(format!("{zeros}-7abc")), Some(7));
        for bad in [
            String::new(),
            zeros.clone(),
            format!("{zeros}-"),
            format!("{zeros}-x"),
            format!("{zeros}7"),
            format!("{}-99999999999999999999", zeros),
            "é".repeat(30),
        ] {
            assert_eq!(parse(bad), None);
        }
    }
}
