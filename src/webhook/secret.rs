//! The secrets that sign messages, as Standard Webhooks defines them.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac::{HMAC_SHA256, Key, sign};

/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// The lengths of a secret that Standard Webhooks allows, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// The secrets of a file. A message has a signature of each, so that a secret can be replaced while
/// the receiver still checks the old one.
#[derive(Debug, Clone)]
pub(crate) struct Secrets(Vec<Key>);

impl Secrets {
    /// Reads the secrets from a file: one in each line.
    pub(crate) fn read(path: &str) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
        let keys = lines.map(|(at, line)| {
            key(line).ok_or_else(|| {
                format!(
                    "line {} is no secret: write {PREFIX} and 24 to 64 bytes in base64, for \
                     example with: echo {PREFIX}$(openssl rand -base64 32)",
                    at + 1
                )
            })
        });
        let keys: Vec<Key> = keys.collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(format!(
                "the file is empty; create a secret with: echo {PREFIX}$(openssl rand -base64 32)"
            ));
        }
        Ok(Self(keys))
    }

    /// Returns the value of `webhook-signature` for a message: the signatures, separated by spaces.
    pub(super) fn signatures(&self, id: &str, timestamp: u64, body: &str) -> String {
        let signed = format!("{id}.{timestamp}.{body}");
        let signature = |key| format!("v1,{}", BASE64.encode(sign(key, signed.as_bytes())));
        self.0.iter().map(signature).collect::<Vec<_>>().join(" ")
    }
}

fn key(line: &str) -> Option<Key> {
    let secret = BASE64.decode(line.strip_prefix(PREFIX)?).ok()?;
    LENGTHS.contains(&secret.len()).then(|| Key::new(HMAC_SHA256, &secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn signature_is_that_of_standard_webhooks() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = r#"{"test": 2432232314}"#;
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let signed = |file: &str| {
            let secrets = Secrets::parse(file).expect("valid secrets");
            secrets.signatures("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        };
        assert_eq!(signed(&format!("{secret}\n")), expected);
        assert_eq!(signed(&format!("{secret}\n\n{secret}")), format!("{expected} {expected}"));
    }

    #[test]
    fn bad_secret_is_rejected_with_its_line() {
        let good = format!("whsec_{}", BASE64.encode([7; 24]));
        assert!(Secrets::parse(&good).is_ok());
        let (short, long) = (BASE64.encode([7; 23]), BASE64.encode([7; 65]));
        for bad in [
            "secret",
            "whsec_",
            "whsec_!",
            &good[6..],
            &format!("whsec_{short}"),
            &format!("whsec_{long}"),
        ] {
            let error = Secrets::parse(&format!("{good}\n{bad}")).expect_err(bad);
            assert!(error.starts_with("line 2 is no secret"), "{error}");
            assert!(bad.len() < 10 || !error.contains(bad), "a secret is not shown: {error}");
        }
        assert!(Secrets::parse("\n").expect_err("empty").contains("empty"));
    }
}
