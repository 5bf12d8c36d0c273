//! The text of keys and keyrings: what a key is written as, in the file and when it is exported. The layout is described
//! in `keyring.rs`.

use aes_gcm_siv::{Aes256GcmSiv, KeyInit};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::entropy::Entropy;

/// What is wrong with the text of a key or keyring. Never shows the text itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyTextProblem {
    /// The first line is not a keyring's.
    #[error("not a keyring (expected \"{HEADER}\")")]
    NotAKeyring,
    /// A keyring or key of another version.
    #[error("unknown version; this program knows version 1")]
    UnknownVersion,
    /// A keyring without keys.
    #[error("no keys")]
    Empty,
    /// Not four fields, or not hex digits of the right number.
    #[error("not a key (expected {KEY_PREFIX}:<id>:<64 hex digits>:<checksum>)")]
    Shape,
    /// Mistyped or damaged.
    #[error("the checksum does not match: mistyped or damaged")]
    Checksum,
    /// Two keys with one id.
    #[error("two keys have this id")]
    Twice,
    /// The file is too large to be a keyring.
    #[error("larger than any keyring")]
    TooLarge,
}

/// One key of the customer.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Cmk {
    pub(super) id: String,
    pub(super) bytes: [u8; CMK_BYTES],
}

impl Cmk {
    pub(super) fn draw(entropy: &Entropy) -> Cmk {
        Cmk {
            id: format!("local-{}", hex(&entropy.draw::<8>())),
            bytes: *entropy.draw_secret(),
        }
    }

    pub(super) fn cipher(&self) -> Aes256GcmSiv {
        Aes256GcmSiv::new((&self.bytes).into())
    }

    /// One line, in a buffer that was never moved: no copy of the key is left in freed memory.
    pub(super) fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(KEY_TEXT_BYTES_MAX));
        text.push_str(KEY_PREFIX);
        text.push(':');
        text.push_str(&self.id);
        text.push(':');
        self.bytes
            .iter()
            .for_each(|byte| push_hex(&mut text, *byte));
        let checksum = crc32c::crc32c(text.as_bytes());
        text.push(':');
        checksum
            .to_be_bytes()
            .iter()
            .for_each(|byte| push_hex(&mut text, *byte));
        text
    }

    pub(super) fn parse(text: &str) -> Result<Cmk, KeyTextProblem> {
        let mut fields = text.split(':');
        let (prefix, id, bytes, checksum) =
            match (fields.next(), fields.next(), fields.next(), fields.next()) {
                (Some(a), Some(b), Some(c), Some(d)) if fields.next().is_none() => (a, b, c, d),
                _ => return Err(KeyTextProblem::Shape),
            };
        if prefix != KEY_PREFIX {
            return Err(if prefix.starts_with(KEY_PREFIX_ANY_VERSION) {
                KeyTextProblem::UnknownVersion
            } else {
                KeyTextProblem::Shape
            });
        }
        let id_is_plain = (1..=ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !id_is_plain || checksum.len() != 8 {
            return Err(KeyTextProblem::Shape);
        }
        let checksum = u32::from_str_radix(checksum, 16).map_err(|_| KeyTextProblem::Shape)?;
        if crc32c::crc32c(&text.as_bytes()[..text.len() - 9]) != checksum {
            return Err(KeyTextProblem::Checksum);
        }
        let (pairs, rest) = bytes.as_bytes().as_chunks::<2>();
        if pairs.len() != CMK_BYTES || !rest.is_empty() {
            return Err(KeyTextProblem::Shape);
        }
        let mut key = Cmk {
            id: id.to_owned(),
            bytes: [0; CMK_BYTES],
        };
        for (byte, pair) in key.bytes.iter_mut().zip(pairs) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(key)
    }
}

/// The keys of a keyring's text; or the number of the line that is wrong, and how.
pub(super) fn parse_file(text: &str) -> Result<Vec<Cmk>, (usize, KeyTextProblem)> {
    if text.len() > FILE_BYTES_MAX {
        return Err((1, KeyTextProblem::TooLarge));
    }
    let mut lines = (1..).zip(text.lines());
    match lines.next() {
        Some((_, HEADER)) => {}
        Some((line, other)) if other.starts_with(HEADER_ANY_VERSION) => {
            return Err((line, KeyTextProblem::UnknownVersion));
        }
        _ => return Err((1, KeyTextProblem::NotAKeyring)),
    }
    let mut keys: Vec<Cmk> = Vec::new();
    for (number, line) in lines {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = Cmk::parse(line).map_err(|problem| (number, problem))?;
        if keys.iter().any(|known| known.id == key.id) {
            return Err((number, KeyTextProblem::Twice));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err((1, KeyTextProblem::Empty));
    }
    Ok(keys)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    bytes.iter().for_each(|byte| push_hex(&mut text, *byte));
    text
}

fn push_hex(text: &mut String, byte: u8) {
    for digit in [byte >> 4, byte & 0xf] {
        text.push(char::from_digit(u32::from(digit), 16).expect("four bits are one digit"));
    }
}

fn hex_digit(digit: u8) -> Result<u8, KeyTextProblem> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(KeyTextProblem::Shape),
    }
}

/// The first line of a keyring.
pub(super) const HEADER: &str = "pageserver-keyring 1";
const HEADER_ANY_VERSION: &str = "pageserver-keyring ";
const KEY_PREFIX: &str = "pageserver-key-1";
const KEY_PREFIX_ANY_VERSION: &str = "pageserver-key-";

const CMK_BYTES: usize = 32;
const ID_BYTES_MAX: usize = 64;
const KEY_TEXT_BYTES_MAX: usize = KEY_PREFIX.len() + ID_BYTES_MAX + 2 * CMK_BYTES + 8 + 3;
/// The longest keyring.
pub(super) const FILE_BYTES_MAX: usize = 64 << 10;
