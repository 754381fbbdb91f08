//! The one authoriser. Every operation from every door passes [`authorize`]: deny by default, by operation and
//! target, with the identity of this request (invariant 7, `one_authoriser`).

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::Serialize;

use crate::id::ProjectId;
use crate::id::SessionId;
use crate::id::TokenId;
use crate::operation::Access;
use crate::operation::Operation;
use crate::operation::TargetKind;
use crate::refusal::Refusal;
use crate::refusal::RefusalCode;

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Everything.
    Admin,
    /// Read everything.
    AdminReadOnly,
    /// Everything in one project.
    Project(ProjectId),
    /// Read one project.
    ProjectReadOnly(ProjectId),
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A valid token.
    Token {
        /// Its public id.
        id: TokenId,
        /// What it may do.
        scope: Scope,
    },
    /// Whoever may open the control socket of this home: its owner.
    Operator,
    /// A session, known by its gate socket.
    Session {
        /// The session.
        id: SessionId,
        /// Its project.
        project: ProjectId,
    },
}

/// What an operation is about, as far as the authoriser must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server as a whole.
    Global,
    /// One project, or something in it.
    Project(ProjectId),
    /// A session.
    Session {
        /// The project that it is in.
        project: ProjectId,
        /// What it is to the session that asks; of no account if a person or a program asks.
        kin: Kin,
    },
}

/// What a session is to the one that asks about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kin {
    /// The same.
    Oneself,
    /// It was started by the one that asks, or by one below that.
    Below,
    /// Its parent, a sibling, or a stranger.
    Other,
}

/// Why a principal may or may not: the rule, and what it was asked with (invariant 10).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Decision {
    /// True if it may.
    pub allowed: bool,
    /// The rule that decided, in words.
    pub rule: &'static str,
}

// === impl Scope ===

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::AdminReadOnly => f.write_str("admin:ro"),
            Self::Project(id) => write!(f, "project:{id}"),
            Self::ProjectReadOnly(id) => write!(f, "project:{id}:ro"),
        }
    }
}

impl FromStr for Scope {
    type Err = Refusal;

    fn from_str(text: &str) -> Result<Self, Refusal> {
        let invalid = || {
            Refusal::invalid(format!("invalid scope `{}`", text.chars().take(80).collect::<String>()))
                .fix("use `admin`, `admin:ro`, `project:<uuid>` or `project:<uuid>:ro`")
        };
        match text {
            "admin" => Ok(Self::Admin),
            "admin:ro" => Ok(Self::AdminReadOnly),
            _ => {
                let rest = text.strip_prefix("project:").ok_or_else(invalid)?;
                match rest.strip_suffix(":ro") {
                    Some(id) => id.parse().map(Self::ProjectReadOnly).map_err(|_| invalid()),
                    None => rest.parse().map(Self::Project).map_err(|_| invalid()),
                }
            }
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Scope {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Scope".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "description": "admin, admin:ro, project:<uuid> or project:<uuid>:ro"
        })
    }
}

// === impl Principal ===

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { id, scope } => write!(f, "token {id} ({scope})"),
            Self::Operator => f.write_str("operator"),
            Self::Session { id, .. } => write!(f, "session {id}"),
        }
    }
}

impl Principal {
    /// True if things of this project may be shown to it at all. Lists show only what this allows.
    pub fn may_see(&self, project: ProjectId) -> bool {
        match self {
            Self::Operator => true,
            Self::Token { scope: Scope::Admin | Scope::AdminReadOnly, .. } => true,
            Self::Token { scope: Scope::Project(own) | Scope::ProjectReadOnly(own), .. } => *own == project,
            // Of its project, it is shown itself and what is below it: see `Target::Session`.
            Self::Session { project: own, .. } => *own == project,
        }
    }
}

// === impl Target ===

impl Target {
    /// The project that it is about, if it is about one.
    const fn project(self) -> Option<ProjectId> {
        match self {
            Self::Global => None,
            Self::Project(project) | Self::Session { project, .. } => Some(project),
        }
    }
}

/// May this principal do this? The rule comes with the answer.
pub fn decide(principal: &Principal, operation: Operation, target: Target) -> Decision {
    let (allowed, rule) = rule(principal, operation, target);
    Decision { allowed, rule }
}

fn rule(principal: &Principal, operation: Operation, target: Target) -> (bool, &'static str) {
    let spec = operation.spec();
    if spec.access == Access::Inside {
        return match (principal, target) {
            (Principal::Session { .. }, Target::Session { kin: Kin::Oneself, .. }) => {
                (true, "a session's agent may, for its own session")
            }
            _ => (false, "only a session's agent may, for its own session"),
        };
    }
    match (spec.target, target.project()) {
        (TargetKind::Global, None) | (TargetKind::Project, Some(_)) => {}
        _ => return (false, "the operation's kind of target and the target given do not match"),
    }
    let scope = match principal {
        Principal::Operator => return (true, "the operator of this home may do everything"),
        Principal::Session { project, .. } => return rule_of_session(*project, operation, target),
        Principal::Token { scope, .. } => *scope,
    };
    match (scope, spec.access, target.project()) {
        (Scope::Admin, _, _) => (true, "`admin` may do everything"),
        (_, Access::Admin | Access::Inside, _) => (false, "this needs the scope `admin`"),
        (Scope::AdminReadOnly, Access::Read, _) => (true, "`admin:ro` may read everything"),
        (Scope::AdminReadOnly, Access::Write, _) => (false, "`admin:ro` may only read"),
        (Scope::Project(_) | Scope::ProjectReadOnly(_), Access::Read, None) => {
            (true, "any token may read lists, and is shown only what it may see")
        }
        (Scope::Project(_) | Scope::ProjectReadOnly(_), Access::Write, None) => {
            (false, "this changes more than one project and needs the scope `admin`")
        }
        (Scope::Project(own), Access::Read | Access::Write, Some(asked)) if own == asked => {
            (true, "a project's token may do everything in its project")
        }
        (Scope::ProjectReadOnly(own), Access::Read, Some(asked)) if own == asked => {
            (true, "a project's `:ro` token may read its project")
        }
        (Scope::ProjectReadOnly(own), Access::Write, Some(asked)) if own == asked => {
            (false, "a `:ro` token may only read")
        }
        (Scope::Project(_) | Scope::ProjectReadOnly(_), _, Some(_)) => {
            (false, "the token is for another project")
        }
    }
}

/// What an agent may do from within its sandbox: start children, steer those below it, and look at these and itself.
fn rule_of_session(own: ProjectId, operation: Operation, target: Target) -> (bool, &'static str) {
    use Operation as O;
    match (operation, target) {
        (O::SessionList, Target::Global) => (true, "a session is shown the sessions below it"),
        (O::SessionSpawn, Target::Project(project)) if project == own => {
            (true, "a session may start children in its project")
        }
        (
            O::SessionGet | O::SessionEvents | O::SessionDiff | O::SessionResult | O::ConfigLimits,
            Target::Session { kin: Kin::Oneself | Kin::Below, .. },
        ) => (true, "a session may look at itself and at those below it"),
        (
            O::SessionMessage | O::SessionAnswer | O::SessionInterrupt | O::SessionEnd,
            Target::Session { kin: Kin::Below, .. },
        ) => (true, "a session may steer those below it"),
        (_, Target::Session { kin: Kin::Oneself, .. }) => (false, "a session does not steer itself"),
        (_, Target::Session { kin: Kin::Other, .. }) => {
            (false, "a session has no say over its parent, its siblings and strangers")
        }
        _ => (false, "a session may start children, and steer those below it, and nothing else"),
    }
}

/// True if there is a target for which the principal may do this: a door shows what passes here, and no more.
pub fn may_ever(principal: &Principal, operation: Operation) -> bool {
    let target = match (operation.spec().target, principal) {
        (TargetKind::Global, _) => Target::Global,
        (TargetKind::Project, Principal::Session { project, .. }) => {
            let below = Target::Session { project: *project, kin: Kin::Below };
            let oneself = Target::Session { project: *project, kin: Kin::Oneself };
            return [below, oneself, Target::Project(*project)]
                .into_iter()
                .any(|target| decide(principal, operation, target).allowed);
        }
        (
            TargetKind::Project,
            Principal::Token { scope: Scope::Project(own) | Scope::ProjectReadOnly(own), .. },
        ) => Target::Project(*own),
        // Whoever is not bound to a project may do the same in each.
        (TargetKind::Project, _) => Target::Project(ProjectId::from_uuid(uuid::Uuid::nil())),
    };
    decide(principal, operation, target).allowed
}

/// Passes, or refuses with the rule that forbids it.
pub fn authorize(principal: &Principal, operation: Operation, target: Target) -> Result<(), Refusal> {
    let decision = decide(principal, operation, target);
    if decision.allowed {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Forbidden,
        format!("{principal} may not {}: {}", operation.spec().name(), decision.rule),
    )
    .fix(match principal {
        Principal::Session { .. } => "leave it to whoever gave you the task",
        _ if operation.spec().access == Access::Inside => "leave it to the session's agent",
        _ => "ask with a token of a wider scope (`oubliette token create`)",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scope: Scope) -> Principal {
        Principal::Token { id: TokenId::new(1), scope }
    }

    fn project(n: u128) -> ProjectId {
        ProjectId::from_uuid(uuid::Uuid::from_u128(n))
    }

    /// Every operation x every principal, against the contract's words written down once more by hand.
    #[test]
    fn the_permission_matrix() {
        let (own, other) = (project(1), project(2));
        for &operation in Operation::ALL {
            let spec = operation.spec();
            let target = match spec.target {
                TargetKind::Global => Target::Global,
                TargetKind::Project => Target::Project(own),
            };
            let global = spec.target == TargetKind::Global;
            let expected = |scope: Scope| match (spec.access, scope) {
                (Access::Inside, _) => false,
                (_, Scope::Admin) => true,
                (Access::Admin, _) => false,
                (Access::Read, Scope::AdminReadOnly) => true,
                (Access::Write, Scope::AdminReadOnly) => false,
                (Access::Read, Scope::Project(p) | Scope::ProjectReadOnly(p)) => global || p == own,
                (Access::Write, Scope::Project(p)) => !global && p == own,
                (Access::Write, Scope::ProjectReadOnly(_)) => false,
            };
            for scope in [
                Scope::Admin,
                Scope::AdminReadOnly,
                Scope::Project(own),
                Scope::Project(other),
                Scope::ProjectReadOnly(own),
                Scope::ProjectReadOnly(other),
            ] {
                let decision = decide(&token(scope), operation, target);
                assert_eq!(
                    decision.allowed,
                    expected(scope),
                    "{} as {scope}: {}",
                    spec.name(),
                    decision.rule
                );
                assert_eq!(authorize(&token(scope), operation, target).is_ok(), decision.allowed);
                assert!(may_ever(&token(scope), operation) || !decision.allowed, "{}", spec.name());
            }
            let is_inside = spec.access == Access::Inside;
            assert_eq!(decide(&Principal::Operator, operation, target).allowed, !is_inside);
        }
    }

    /// What a session may do, written down once more by hand: everything that is not here is refused.
    #[test]
    fn a_session_may_start_children_and_has_a_say_over_those_below_it_only() {
        let (own, other) = (project(1), project(2));
        let session = Principal::Session { id: SessionId::new(crate::Timestamp::default(), 1), project: own };
        let kin = |project, kin| Target::Session { project, kin };
        for &operation in Operation::ALL {
            let name = operation.spec().name();
            let looks =
                ["session.get", "session.events", "session.diff", "session.result", "config_limits.get"]
                    .contains(&name.as_str());
            let steers = ["session.message", "session.answer", "session.interrupt", "session.end"]
                .contains(&name.as_str());
            let asks = ["ask.person", "caller_tool.call"].contains(&name.as_str());
            let expected = [
                (Target::Global, name == "session.list"),
                (Target::Project(own), name == "session.spawn"),
                (Target::Project(other), false),
                (kin(own, Kin::Oneself), looks || asks),
                (kin(own, Kin::Below), looks || steers),
                (kin(own, Kin::Other), false),
            ];
            for (target, allowed) in expected {
                let decision = decide(&session, operation, target);
                assert_eq!(decision.allowed, allowed, "{name} {target:?}: {}", decision.rule);
                assert!(may_ever(&session, operation) || !allowed, "{name}");
            }
            let ever = expected.iter().any(|(_, allowed)| *allowed);
            assert_eq!(may_ever(&session, operation), ever, "{name}");
        }
    }

    #[test]
    fn a_target_of_the_wrong_kind_is_refused_even_to_the_operator() {
        let decision = decide(&Principal::Operator, Operation::SessionSpawn, Target::Global);
        assert!(!decision.allowed);
    }

    #[test]
    fn scopes_go_both_ways_and_nothing_else_parses() {
        for scope in [
            Scope::Admin,
            Scope::AdminReadOnly,
            Scope::Project(project(3)),
            Scope::ProjectReadOnly(project(3)),
        ] {
            assert_eq!(scope.to_string().parse::<Scope>(), Ok(scope));
        }
        for wrong in ["", "Admin", "admin:rw", "project:", "project:1", "project::ro", "read-only"] {
            let refusal = wrong.parse::<Scope>().expect_err(wrong);
            assert!(refusal.to_string().contains("invalid scope"), "{refusal}");
        }
    }
}
