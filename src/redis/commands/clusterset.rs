//! RG.CLUSTERSET: a topology, as Redis Enterprise pushes it. The cluster is the server's own here:
//! the topology of one node, which makes no cluster, is taken note of, and any other is refused.

use crate::redis::Module;
use crate::redis::raw::{Args, Ctx};

const BAD: &[u8] = b"Could not parse cluster set arguments";

const NOT_SUPPORTED: &[u8] = b"ERR the cluster is taken from the server itself (cluster-enabled \
    yes): topologies that are pushed from outside are not supported";

/// Characters of the id of a node, which is filled up to them.
const ID_LEN: usize = 40;

const SLOTS: u16 = 16384;

/// Words of a range, and how many of the last one have to be there.
const RANGE: usize = 8;
const SHORTEST_RANGE: usize = 7;

/// `RG.CLUSTERSET word word word word word id word ranges range ...`
pub(super) fn cluster_set(_module: &'static Module, ctx: Ctx<'_>, args: &Args<'_>) {
    let Some(ranges) = ranges(args.rest()) else {
        return ctx.error(BAD);
    };
    if ctx.is_part_of_more() {
        return ctx.would_block();
    }
    if ranges > 1 {
        return ctx.error(NOT_SUPPORTED);
    }
    ctx.status(b"OK");
}

/// How many ranges of slots the words of the command tell of, if they make sense.
fn ranges(words: &[&[u8]]) -> Option<usize> {
    let [_, _, _, _, _, id, _, count, rest @ ..] = words else {
        return None;
    };
    let count: usize = number(count)?;
    if count == 0 || id.len() > ID_LEN {
        return None;
    }
    let mut rest = rest;
    for left in (0..count).rev() {
        let (range, after) = rest.split_at_checked(SHORTEST_RANGE)?;
        let &[_, id, _, first, last, _, address] = range else {
            return None;
        };
        let (first, last): (u16, u16) = (number(first)?, number(last)?);
        if id.len() > ID_LEN || first > last || last >= SLOTS || !is_address(address) {
            return None;
        }
        if left > 0 {
            let has_socket = *after.first()? == b"UNIXADDR";
            let more = RANGE - SHORTEST_RANGE + if has_socket { 2 } else { 0 };
            rest = after.get(more..)?;
        }
    }
    Some(count)
}

/// A plain decimal number.
fn number<N: std::str::FromStr>(word: &[u8]) -> Option<N> {
    let digits = word.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(word)
        .ok()
        .filter(|_| digits)?
        .parse()
        .ok()
}

/// Whether it is `[password@]host:port`; a host with colons may stand in brackets.
fn is_address(word: &[u8]) -> bool {
    let part = |word: &[u8], separator: u8| word.iter().rposition(|&c| c == separator);
    let place = part(word, b'@').map_or(word, |password| &word[password + 1..]);
    let Some(colon) = part(place, b':') else {
        return false;
    };
    colon > 0 && number::<u16>(&place[colon + 1..]).is_some_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::ranges;

    const HEAD: &str = "x x x x x 1 x";

    fn check(words: &str, want: Option<usize>) {
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        assert_eq!(ranges(&words), want, "{words:?}");
    }

    #[test]
    fn ranges_are_counted() {
        let range = |id: u8| format!("x {id} x 0 8191 x password@localhost:6379");
        check(&format!("{HEAD} 1 {}", range(1)), Some(1));
        check(&format!("{HEAD} 1 {} x and more", range(1)), Some(1));
        check(&format!("{HEAD} 2 {} x {}", range(1), range(2)), Some(2));
        let socket = format!("{} UNIXADDR x x", range(1));
        check(&format!("{HEAD} 2 {socket} {}", range(2)), Some(2));
        check(&format!("{HEAD} 3 {socket} {socket} {}", range(3)), Some(3));
    }

    #[test]
    fn addresses() {
        let one = |address: &str| format!("{HEAD} 1 x 1 x 0 16383 x {address}");
        for address in [
            "p@[::1]:6379",
            "p@::1:6379",
            "@host:1",
            "a@b@host:65535",
            "host:1",
            "[::1]:1",
        ] {
            check(&one(address), Some(1));
        }
        for address in [
            "host", ":1", "p@host", "p@host:", "p@host:x", "p@:1", "p@host:0",
        ] {
            check(&one(address), None);
        }
        check(&one("p@host:65536"), None);
        check(&one(""), None);
    }

    #[test]
    fn what_makes_no_sense() {
        let good = "x 1 x 0 8191 x p@h:1";
        for count in [
            "0",
            "-1",
            "+1",
            "1.0",
            "x",
            "",
            "99999999999999999999999",
            "2",
        ] {
            check(&format!("{HEAD} {count} {good}"), None);
        }
        for slots in ["x 1", "0 x", "2 1", "-1 1", "0 16384", "0 1.5", "0 "] {
            check(&format!("{HEAD} 1 x 1 x {slots} x p@h:1"), None);
        }
        let long = "a".repeat(41);
        check(&format!("x x x x x {long} x 1 {good}"), None);
        check(&format!("{HEAD} 1 x {long} x 0 1 x p@h:1"), None);
        check(&format!("{HEAD} 18446744073709551615 {good} x"), None);
        check("x x x x x 1 x 1 x", None);
        check("", None);
    }
}
