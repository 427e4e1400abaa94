//! Random UUIDs (version 4, RFC 9562 §5.4).

use std::fmt::Write as _;

use ring::rand::{SecureRandom, SystemRandom};

/// Returns a new `urn:uuid:…`, which is a name, not a secret.
pub(crate) fn random_urn() -> String {
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        fastrand::fill(&mut bytes); // a name needs no secure randomness
    }
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut urn = "urn:uuid:".to_owned();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            urn.push('-');
        }
        write!(urn, "{byte:02x}").expect("writing to a String cannot fail");
    }
    urn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_version_4_uuids() {
        let (one, other) = (random_urn(), random_urn());
        assert_ne!(one, other);
        let uuid = one.strip_prefix("urn:uuid:").unwrap();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
        assert_eq!(&uuid[14..15], "4", "{uuid}");
        assert!(uuid[19..20].contains(['8', '9', 'a', 'b']), "{uuid}");
    }
}
