//! The rights that a token grants, in either generation of Mercure.
//!
//! The current draft lists the rights in `authorization_details` (RFC 9396), and 0.x lists them in
//! the claim `mercure`. One error in the list makes the whole token invalid: a token with only the
//! valid part of its rights would not grant what its issuer meant.

use std::sync::Arc;

use serde_json::Value;

use super::error::JwtError;
use super::error::JwtError::Invalid;
use crate::limits::PATTERNS_PER_STREAM;
use crate::mercure::matcher::{Base, MatcherError, Purpose};
use crate::registry::Matcher;

/// The error for every malformed claim.
const WRONG: JwtError = Invalid("its rights are not in a form that Mercure defines");

/// The maximum number of topics in one token. The number is limited because each topic may be a
/// pattern, which the server compiles for each request.
const TOPICS_MAX: usize = 100;

/// The type of Mercure's `authorization_details`.
pub(crate) const DETAIL_TYPE: &str = "https://mercure.rocks/authorization-detail";

/// The accepted types of `authorization_details`. Earlier revisions of the draft, and earlier
/// versions of `threadcast token`, wrote `mercure`.
const DETAIL_TYPES: [&str; 2] = [DETAIL_TYPE, "mercure"];

/// The short and the full name of the claim with the rights of 0.x.
const CLAIM: [&str; 2] = ["mercure", "https://mercure.rocks/"];

/// The generation of the Mercure protocol that a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Generation {
    /// The current draft: `typ` is `at+jwt` (RFC 9068).
    Current,
    /// 0.x: `typ` is `JWT` or absent.
    Older,
}

/// The rights that a token grants.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Rights {
    pub(crate) publish: Arc<[Matcher]>,
    pub(crate) subscribe: Arc<[Matcher]>,
    /// Payloads that the issuer attaches to subscriptions, each with the topics that it applies to.
    pub(crate) payloads: Vec<(Vec<Matcher>, Value)>,
    /// The subject of the token (`sub`, RFC 7519 §4.1.2).
    pub(crate) subject: Option<Box<str>>,
    /// Whether the token is of the 0.x generation.
    pub(crate) is_older: bool,
}

impl Rights {
    /// Reads the rights from a token's claims. Relative URL patterns are resolved against `base`.
    pub(super) fn of(
        claims: &Value,
        generation: Generation,
        base: &Base,
    ) -> Result<Self, JwtError> {
        let mut reader = ClaimsReader { base: base.clone(), ..ClaimsReader::default() };
        match generation {
            Generation::Current => reader.details(&claims["authorization_details"])?,
            Generation::Older => {
                let claim = CLAIM.iter().find_map(|name| claims.get(name));
                reader.claim(claim.unwrap_or(&Value::Null))?;
            }
        }
        let ClaimsReader { publish, subscribe, payloads, .. } = reader;
        let subject = claims["sub"].as_str().map(Box::from);
        let (publish, subscribe) = (publish.into(), subscribe.into());
        let is_older = generation == Generation::Older;
        Ok(Self { publish, subscribe, payloads, subject, is_older })
    }

    /// Returns the payload for a subscription to `matcher`: the first payload of which a topic
    /// matches the text `matcher`.
    pub(crate) fn payload(&self, matcher: &str) -> Option<&Value> {
        let applies = |topics: &[Matcher]| topics.iter().any(|topic| topic.matches(matcher));
        self.payloads.iter().find(|(topics, _)| applies(topics)).map(|(_, payload)| payload)
    }
}

/// Reads the claims of a token, and collects the rights in them.
#[derive(Default)]
struct ClaimsReader {
    publish: Vec<Matcher>,
    subscribe: Vec<Matcher>,
    payloads: Vec<(Vec<Matcher>, Value)>,
    topics: usize,
    /// The memory of the patterns among the topics read so far, in bytes.
    bytes: usize,
    base: Base,
}

impl ClaimsReader {
    /// Reads `authorization_details`. A token without this claim is valid and grants nothing.
    fn details(&mut self, details: &Value) -> Result<(), JwtError> {
        let details = match details {
            Value::Null => return Ok(()),
            Value::Array(details) => details,
            _ => return Err(WRONG),
        };
        for detail in details {
            let kind = detail.get("type").and_then(Value::as_str).ok_or(WRONG)?;
            if DETAIL_TYPES.contains(&kind) {
                self.detail(detail)?;
            }
        }
        Ok(())
    }

    fn detail(&mut self, detail: &Value) -> Result<(), JwtError> {
        let actions: Vec<&str> = not_empty(&detail["actions"])?
            .iter()
            .map(|action| action.as_str().ok_or(WRONG))
            .collect::<Result<_, _>>()?;
        let topics = not_empty(&detail["topics"])?;
        let topics = topics.iter().map(|topic| self.topic(topic)).collect::<Result<Vec<_>, _>>()?;
        let payload = match detail.get("payload") {
            None => None,
            Some(payload @ Value::Object(_)) => Some(payload.clone()),
            Some(_) => return Err(WRONG),
        };
        if actions.contains(&"publish") {
            self.publish.extend_from_slice(&topics);
        }
        if actions.contains(&"subscribe") {
            self.subscribe.extend_from_slice(&topics);
            self.payloads.extend(payload.map(|payload| (topics, payload)));
        }
        Ok(())
    }

    /// Reads `{"match": …, "match_type": …}`.
    fn topic(&mut self, topic: &Value) -> Result<Matcher, JwtError> {
        let text = topic.get("match").and_then(Value::as_str).ok_or(WRONG)?;
        self.count()?;
        let matcher = match topic.get("match_type").map(Value::as_str) {
            _ if text == "*" && topic.get("match_type").is_none_or(Value::is_string) => {
                Matcher::exact(text)
            }
            None | Some(Some("exact")) => Matcher::exact(text),
            Some(Some("urlpattern")) => Matcher::url_pattern_for(Purpose::Token, text, &self.base),
            Some(_) => return Err(WRONG),
        };
        self.check(matcher)
    }

    /// Adds a pattern's memory to the total, and fails if the total exceeds the limit. The caller
    /// checks each pattern before it compiles the next, so that a token over the limit costs
    /// little.
    fn check(&mut self, matcher: Result<Matcher, MatcherError>) -> Result<Matcher, JwtError> {
        let matcher = matcher.map_err(|error| match error {
            MatcherError::Full => JwtError::Full,
            _ => WRONG,
        })?;
        self.bytes += matcher.bytes();
        if self.bytes > PATTERNS_PER_STREAM { Err(WRONG) } else { Ok(matcher) }
    }

    /// Reads `{"publish": […], "subscribe": […], "payload": …}`. Every field is optional.
    fn claim(&mut self, claim: &Value) -> Result<(), JwtError> {
        let claim = match claim {
            Value::Null => return Ok(()),
            Value::Object(claim) => claim,
            _ => return Err(WRONG),
        };
        self.publish = self.selectors(claim.get("publish"))?;
        self.subscribe = self.selectors(claim.get("subscribe"))?;
        if let Some(payload) = claim.get("payload").filter(|payload| !payload.is_null()) {
            let all = Matcher::exact("*").map_err(|_| WRONG)?;
            self.payloads.push((vec![all], payload.clone()));
        }
        Ok(())
    }

    fn selectors(&mut self, selectors: Option<&Value>) -> Result<Vec<Matcher>, JwtError> {
        let selectors = match selectors {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(selectors)) => selectors,
            Some(_) => return Err(WRONG),
        };
        let selector = |selector: &Value| {
            self.count()?;
            let text = selector.as_str().ok_or(WRONG)?;
            let matcher = Matcher::selector_for(Purpose::Token, text);
            self.check(matcher)
        };
        selectors.iter().map(selector).collect()
    }

    fn count(&mut self) -> Result<(), JwtError> {
        self.topics += 1;
        if self.topics > TOPICS_MAX { Err(WRONG) } else { Ok(()) }
    }
}

fn not_empty(value: &Value) -> Result<&Vec<Value>, JwtError> {
    value.as_array().filter(|values| !values.is_empty()).ok_or(WRONG)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(claims: &Value, generation: Generation) -> Result<Rights, JwtError> {
        Rights::of(claims, generation, &Base::default())
    }

    fn current(details: &Value) -> Result<Rights, JwtError> {
        of(&json!({ "authorization_details": details }), Generation::Current)
    }

    fn may(matchers: &[Matcher], topic: &str) -> bool {
        matchers.iter().any(|matcher| matcher.matches(topic))
    }

    #[test]
    fn rights_of_both_generations_are_read() {
        let of_old = json!({ "mercure": { "publish": ["a"], "subscribe": ["*"], "payload": 7 } });
        let rights = of(&of_old, Generation::Older).unwrap();
        assert!(may(&rights.publish, "a") && !may(&rights.publish, "b"));
        assert!(rights.is_older && may(&rights.subscribe, "b"));
        assert_eq!(rights.payload("anything"), Some(&json!(7)));
        assert_eq!(of(&of_old, Generation::Current).unwrap(), Rights::default());

        let rights = current(&json!([
            { "type": "other", "actions": 1 },
            { "type": "mercure", "actions": ["publish", "tomorrow's"], "topics": [{ "match": "a" }] },
            { "type": "mercure", "actions": ["subscribe"], "topics": [{ "match": "b" }],
              "payload": { "for": "b" } },
            { "type": "mercure", "actions": ["subscribe"],
              "topics": [{ "match": "*", "match_type": "urlpattern" }], "payload": { "for": "all" } },
        ]))
        .unwrap();
        assert!(may(&rights.publish, "a") && !may(&rights.publish, "b"));
        assert!(may(&rights.subscribe, "c"));
        assert_eq!(rights.payload("b"), Some(&json!({ "for": "b" })));
        assert_eq!(rights.payload("c"), Some(&json!({ "for": "all" })));
    }

    #[test]
    fn the_patterns_of_a_token_have_a_bound() {
        let of = |count: usize| {
            let topics = (0..count).map(|n| {
                json!({ "match": format!("/t{n}/(a{{300}}b{{300}})"), "match_type": "urlpattern" })
            });
            let topics: Vec<Value> = topics.collect();
            current(&json!([{ "type": "mercure", "actions": ["publish"], "topics": topics }]))
        };
        assert!(of(5).is_ok());
        assert_eq!(of(30), Err(WRONG));
    }

    #[test]
    fn one_wrong_detail_makes_the_token_invalid() {
        let fine =
            json!({ "type": "mercure", "actions": ["publish"], "topics": [{ "match": "a" }] });
        let spoilt = |field: &str, value: Value| {
            let mut detail = fine.clone();
            detail[field] = value;
            current(&json!([fine, detail]))
        };
        assert!(current(&json!([fine])).is_ok());
        for (field, value) in [
            ("type", json!(7)),
            ("actions", json!([])),
            ("actions", json!("publish")),
            ("actions", json!(["publish", 7])),
            ("topics", json!([])),
            ("topics", json!({ "match": "a" })),
            ("topics", json!(["a"])),
            ("topics", json!([{ "match": 7 }])),
            ("topics", json!([{ "match": "a", "match_type": "regex" }])),
            ("topics", json!([{ "match": "*", "match_type": 7 }])),
            ("topics", json!([{ "match": "a\u{200b}" }])),
            ("payload", json!("text")),
            ("topics", Value::Array(vec![json!({ "match": "a" }); TOPICS_MAX])),
        ] {
            assert_eq!(spoilt(field, value.clone()), Err(WRONG), "{field}: {value}");
        }
        assert_eq!(current(&json!({})), Err(WRONG));
        for claim in [json!([]), json!({ "publish": "a" }), json!({ "subscribe": [7] })] {
            let claims = json!({ "mercure": claim });
            assert_eq!(of(&claims, Generation::Older), Err(WRONG), "{claims}");
        }
    }
}
