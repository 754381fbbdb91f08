//! The audit: who was let do what, who was not, and who was nobody. What is written, and the forms in which it leaves.
//!
//! ```text
//! asked --> permitted: written, then done --> failed: written too
//!       +-> refused:   written
//! no valid token: written as `login`
//! ```
//!
//! What changes something is written before it is done, so nothing is done that is not in the audit, whenever a server dies.
//!
//! **Architecture invariant:** no text of a client is in an entry, only what parsed as an id, a scope or a token's name.
//! So a secret that was sent in the wrong place is not kept.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use crate::Principal;
use crate::ProjectId;
use crate::QuestionId;
use crate::RefusalCode;
use crate::Scope;
use crate::SessionId;
use crate::Timestamp;
use crate::TokenId;
use crate::WorkspaceId;
use crate::operation::Method;
use crate::operation::Operation;

/// The operation of an entry about a token that was not valid, or missing.
pub const LOGIN: &str = "login";

/// The version of OCSF that [`AuditRow::ocsf`] is written in.
const OCSF_VERSION: &str = "1.3.0";

/// Who asks, and in which request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who.
    pub principal: Principal,
    /// The request's id, if it came as one.
    pub request: Option<String>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was allowed and is done next.
    Permitted,
    /// It was not allowed, or was allowed and could not be done.
    Refused,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// The request's id, as `X-Request-ID` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Who: a token by its public id and scope, the operator, a session, or `nobody`.
    pub principal: String,
    /// What was asked for, as `tool.action`; `login` for a token that is not valid, or missing.
    pub operation: String,
    /// What it is about: kinds and ids.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub about: BTreeMap<String, String>,
    /// What became of it.
    pub verdict: Verdict,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<RefusalCode>,
    /// Where a stranger asked from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// So many more of the same kind, from wherever, came too fast to be written each.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub and_more: u64,
}

/// An entry with its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRow {
    /// Its number, from 1, without a gap.
    pub seq: u64,
    /// What it says.
    #[serde(flatten)]
    pub entry: AuditEntry,
    /// SHA-256, in hexadecimal, of the hash before (32 zero bytes before the first), the number as 8 bytes, most
    /// significant first, and the entry's text as it is stored.
    pub hash: String,
}

/// What a look at the whole chain came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerdict {
    /// True if every entry is there and as it was written.
    pub intact: bool,
    /// Entries that are there.
    pub entries: u64,
    /// The newest entry's hash. Whoever keeps it elsewhere can tell later that nothing before it was written anew.
    pub head: String,
    /// What is wrong, the first few.
    pub faults: Vec<String>,
}

// === impl Asker ===

impl From<&Principal> for Asker {
    fn from(principal: &Principal) -> Self {
        Self { principal: principal.clone(), request: None }
    }
}

impl From<&Asker> for Asker {
    fn from(asker: &Asker) -> Self {
        asker.clone()
    }
}

// === impl AuditEntry ===

impl AuditEntry {
    /// An operation that was allowed and is done next.
    pub fn permitted(
        at: Timestamp,
        asker: &Asker,
        operation: Operation,
        about: &BTreeMap<String, String>,
    ) -> Self {
        Self {
            at,
            request_id: asker.request.clone(),
            principal: asker.principal.to_string(),
            operation: operation.spec().name(),
            about: about.clone(),
            verdict: Verdict::Permitted,
            code: None,
            address: None,
            and_more: 0,
        }
    }

    /// An operation that was refused.
    pub fn refused(
        at: Timestamp,
        asker: &Asker,
        operation: Operation,
        about: &BTreeMap<String, String>,
        code: RefusalCode,
    ) -> Self {
        let entry = Self::permitted(at, asker, operation, about);
        Self { verdict: Verdict::Refused, code: Some(code), ..entry }
    }

    /// A request without a valid token.
    pub fn login_failed(
        at: Timestamp,
        request: Option<String>,
        address: Option<IpAddr>,
        and_more: u64,
    ) -> Self {
        Self {
            at,
            request_id: request,
            principal: "nobody".to_owned(),
            operation: LOGIN.to_owned(),
            about: BTreeMap::new(),
            verdict: Verdict::Refused,
            code: Some(RefusalCode::Unauthenticated),
            address,
            and_more,
        }
    }
}

/// What parameters are about: only what parses as an id, a scope or a token's name, and as that is written.
pub fn about(params: &Value) -> BTreeMap<String, String> {
    fn is<T: std::str::FromStr + ToString>(text: &str) -> Option<String> {
        text.parse::<T>().ok().map(|id| id.to_string())
    }
    let Some(params) = params.as_object() else { return BTreeMap::new() };
    let known = params.iter().filter_map(|(name, value)| {
        let text = value.as_str()?;
        let id = match name.as_str() {
            "project_id" => is::<ProjectId>(text),
            "workspace_id" => is::<WorkspaceId>(text),
            "session_id" => is::<SessionId>(text),
            "question_id" | "request_id" => is::<QuestionId>(text),
            "token" => is::<TokenId>(text).or_else(|| token_name(text)),
            "name" => token_name(text).filter(|_| params.contains_key("scope")),
            "scope" => is::<Scope>(text),
            _ => None,
        };
        Some((name.trim_end_matches("_id").to_owned(), id?))
    });
    known.collect()
}

/// A token's name: a secret is longer.
fn token_name(text: &str) -> Option<String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    ((1..=64).contains(&text.len()) && text.bytes().all(fits) && !text.starts_with("oub_"))
        .then(|| text.to_owned())
}

// === impl AuditRow ===

impl AuditRow {
    /// The row as an event of the Open Cybersecurity Schema Framework: class 6003 (API activity), or 3002
    /// (authentication).
    pub fn ocsf(&self) -> Value {
        let entry = &self.entry;
        let is_login = entry.operation == LOGIN;
        let (class, category) = if is_login { (3002, 3) } else { (6003, 6) };
        let activity = if is_login { 1 } else { activity(&entry.operation) };
        let (status, severity) = match entry.verdict {
            Verdict::Permitted => (1, 1),
            Verdict::Refused => (2, 2),
        };
        let mut event = json!({
            "class_uid": class,
            "category_uid": category,
            "activity_id": activity,
            "type_uid": class * 100 + activity,
            "time": entry.at.as_micros() / 1000,
            "severity_id": severity,
            "status_id": status,
            "metadata": {
                "version": OCSF_VERSION,
                "product": { "name": "Oubliette", "vendor_name": "Oubliette" },
                "sequence": self.seq,
                "uid": self.hash,
            },
            "actor": { "user": { "name": entry.principal } },
            "resources": entry.about.iter().map(|(kind, id)| json!({ "type": kind, "uid": id })).collect::<Vec<_>>(),
        });
        if let Some(id) = &entry.request_id {
            event["metadata"]["correlation_uid"] = id.as_str().into();
        }
        if let Some(code) = entry.code {
            event["status_code"] = code.as_str().into();
        }
        if let Some(address) = entry.address {
            event["src_endpoint"] = json!({ "ip": address });
        }
        if is_login {
            event["user"] = json!({ "name": entry.principal });
            event["count"] = (entry.and_more + 1).into();
        } else {
            event["api"] = json!({ "operation": entry.operation, "request": { "uid": entry.request_id } });
        }
        event
    }
}

/// OCSF's word for what an operation does: 1 create, 2 read, 3 update, 4 delete.
fn activity(operation: &str) -> u32 {
    let spec = Operation::ALL.iter().map(|known| known.spec()).find(|spec| spec.name() == operation);
    match spec {
        Some(spec) if matches!(spec.action, "create" | "spawn") => 1,
        Some(spec) if spec.method == Method::Get => 2,
        Some(spec) if spec.method == Method::Delete || spec.action == "revoke" => 4,
        Some(_) => 3,
        None => 99,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "oub_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn an_entry_is_about_ids_and_holds_nothing_else_that_a_client_wrote() {
        let project = "00000000-0000-0000-0000-000000000001";
        let params = json!({
            "project_id": project, "session_id": SECRET, "message": SECRET, "name": "a", SECRET: SECRET, "token": SECRET,
        });
        assert_eq!(about(&params), BTreeMap::from([("project".to_owned(), project.to_owned())]));
        let made = about(&json!({ "name": "ci", "scope": "admin:ro", "expires_in_s": 5 }));
        assert_eq!(
            made,
            BTreeMap::from(
                [("name", "ci"), ("scope", "admin:ro")].map(|(k, v)| (k.to_owned(), v.to_owned()))
            )
        );
        for nothing in [json!(null), json!([SECRET]), json!(SECRET), json!({ "token": "Not A Name" })] {
            assert_eq!(about(&nothing), BTreeMap::new(), "{nothing}");
        }
    }

    #[test]
    fn every_operation_has_an_activity_of_ocsf() {
        let asker = Asker::from(&Principal::Operator);
        for operation in Operation::ALL {
            let entry = AuditEntry::permitted(Timestamp::default(), &asker, *operation, &BTreeMap::new());
            let event = AuditRow { seq: 1, entry, hash: "00".to_owned() }.ocsf();
            let activity = event["activity_id"].as_u64().expect("a number");
            assert!((1..=4).contains(&activity), "{event}");
            assert_eq!(event["type_uid"], 600_300 + activity);
        }
        let entry = AuditEntry::login_failed(Timestamp::default(), None, "192.0.2.1".parse().ok(), 2);
        let event = AuditRow { seq: 2, entry, hash: "00".to_owned() }.ocsf();
        assert_eq!(
            (&event["type_uid"], &event["status_id"], &event["count"]),
            (&json!(300_201), &json!(2), &json!(3))
        );
        assert_eq!(event["src_endpoint"]["ip"], "192.0.2.1");
    }
}
