//! A requirement as RG.PYEXPORTREQ gives it and RG.PYIMPORTREQ takes it.
//!
//! ```text
//! payload = version(long) name(str) os(str) listed(long) wheels(long) [ file(str) content(buf) ]...
//! long = 8 bytes, little-endian    buf = length(long) bytes    str = buf that ends with a NUL
//! ```

/// The version that is written.
const VERSION: u64 = 2;

/// How much one word of a payload has.
const CHUNK: usize = 10 << 20;

/// What a payload holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The requirement.
    pub(crate) name: String,
    /// Where its wheels were made.
    pub(crate) os: String,
    /// Whether it is in the list of requirements.
    pub(crate) listed: bool,
    /// Its files, with their content.
    pub(crate) wheels: Vec<(String, Vec<u8>)>,
}

impl Payload {
    /// As bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_long(&mut bytes, VERSION);
        put_text(&mut bytes, &self.name);
        put_text(&mut bytes, &self.os);
        put_long(&mut bytes, u64::from(self.listed));
        put_long(&mut bytes, self.wheels.len() as u64);
        for (file, content) in &self.wheels {
            put_text(&mut bytes, file);
            put_long(&mut bytes, content.len() as u64);
            bytes.extend_from_slice(content);
        }
        bytes
    }

    /// The same, cut for a reply.
    pub(crate) fn chunks(bytes: &[u8]) -> impl ExactSizeIterator<Item = &[u8]> {
        bytes.chunks(CHUNK)
    }

    /// What [`Payload::encode`] wrote, with the errors of RedisGears 1.x.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        const NAME: &str = "Bad serialization format on reading requirement name";
        const AMOUNT: &str = "Bad serialization format on reading requirement wheels amount";
        const FILE: &str = "Bad serialization format on reading wheel file name";
        const DATA: &str = "Bad serialization format on reading wheel file data";
        let mut rest = bytes;
        let version = long(&mut rest).ok_or(NAME)?;
        if version > VERSION {
            return Err("Requirement version is not compatible, upgrade to newer RedisGears.");
        }
        let name = text(&mut rest).ok_or(NAME)?;
        let os = match version {
            0 => String::new(),
            _ => text(&mut rest).ok_or("Bad serialization format on reading requirement os")?,
        };
        let listed = version < 2 || long(&mut rest).ok_or(AMOUNT)? != 0;
        let count = long(&mut rest).ok_or(AMOUNT)?;
        let mut wheels = Vec::new();
        for _ in 0..count {
            let file = text(&mut rest).ok_or(FILE)?;
            if !is_file_name(&file) {
                return Err(FILE);
            }
            wheels.push((file, buffer(&mut rest).ok_or(DATA)?.to_vec()));
        }
        if !rest.is_empty() {
            return Err("Failed deserialize requirement");
        }
        Ok(Self {
            name,
            os,
            listed,
            wheels,
        })
    }
}

/// Whether it can be the name of a wheel in a folder of its own: no way out of it.
pub(super) fn is_file_name(file: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.+!".contains(c);
    file.len() < 250 && file.ends_with(".whl") && !file.starts_with('.') && file.chars().all(good)
}

fn put_long(bytes: &mut Vec<u8>, number: u64) {
    bytes.extend_from_slice(&number.to_le_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_long(bytes, text.len() as u64 + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(0);
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

fn buffer<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(long(rest)?).ok()?;
    let (buffer, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some(buffer)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let (&end, text) = buffer(rest)?.split_last()?;
    let text = std::str::from_utf8(text).ok()?;
    (end == 0 && !text.contains('\0')).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload() -> Payload {
        Payload {
            name: "redis==4.5.1".into(),
            os: "linux-bookworm-x64".into(),
            listed: true,
            wheels: vec![
                ("redis-4.5.1-py3-none-any.whl".into(), b"PK\0\x01".to_vec()),
                ("empty-1-py3-none-any.whl".into(), Vec::new()),
            ],
        }
    }

    #[test]
    fn what_is_exported_can_be_imported() {
        assert_eq!(Payload::decode(&payload().encode()), Ok(payload()));
    }

    #[test]
    fn the_layout_is_that_of_redisgears() {
        let small = Payload {
            name: "a".into(),
            os: "b".into(),
            listed: false,
            wheels: Vec::new(),
        };
        let mut want = Vec::new();
        want.extend(2u64.to_le_bytes());
        for name in [b"a\0", b"b\0"] {
            want.extend(2u64.to_le_bytes());
            want.extend(name);
        }
        want.extend([0; 16]);
        assert_eq!(small.encode(), want);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let bytes = payload().encode();
        for end in 0..bytes.len() {
            assert!(Payload::decode(&bytes[..end]).is_err(), "{end}");
        }
        let error = |end: usize| Payload::decode(&bytes[..end]).expect_err("short");
        assert!(error(0).ends_with("requirement name"));
        assert!(error(20).ends_with("requirement name"));
        assert!(error(30).ends_with("requirement os"));
        assert!(error(bytes.len() - 1).ends_with("file data"));
    }

    #[test]
    fn names_of_files_lead_nowhere_else() {
        let mut evil = payload();
        for name in ["../x.whl", "/x.whl", ".whl", "x", "a/b.whl", "x\n.whl"] {
            evil.wheels[0].0 = name.into();
            assert!(Payload::decode(&evil.encode()).is_err(), "{name}");
        }
        let mut newer = payload().encode();
        newer[0] = 3;
        let error = Payload::decode(&newer).expect_err("newer");
        assert!(error.starts_with("Requirement version"), "{error}");
    }
}
