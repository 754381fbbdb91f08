//! `oubliette session`.

use std::collections::HashMap;

use ob_core::QuestionId;
use ob_core::Refusal;
use ob_core::SessionId;
use ob_core::operation::CallerToolResponse;
use ob_core::operation::Operation;
use ob_core::operation::SessionAccepted;
use ob_core::operation::SessionAnswer;
use ob_core::operation::SessionDiff;
use ob_core::operation::SessionList;
use ob_core::operation::SessionMessage;
use ob_core::operation::SessionTarget;
use ob_core::question::Asked;
use ob_core::question::Question;
use ob_core::record::SessionView;
use ob_core::resource::Enforcement;
use ob_core::resource::Resource;
use ob_core::resource::marked_backend;
use ob_core::session::SessionStatus;
use serde_json::Value;
use serde_json::json;

use super::OK;
use super::args::SessionCommand;
use super::hub::Hub;
use super::output::Output;
use super::patch;
use super::project;
use super::table::Table;
use super::text;
use super::watch;
use super::watch::OnInterrupt;
use super::watch::Until;
use super::watch::Watch;
use super::watch::Watched;

/// How many sessions the server lists if it is not told.
const LIST_DEFAULT: usize = 100;
/// Among how many of the newest sessions a cut id is looked up.
const LOOK_UP_MAX: u32 = 1000;

/// Runs the command.
pub(crate) async fn command(command: SessionCommand, hub: &Hub, output: &Output) -> Result<u8, Refusal> {
    hub.ensure(output).await?;
    match command {
        SessionCommand::List { project, status, limit, before } => {
            let params = SessionList {
                project_id: project.as_deref().map(project::parse).transpose()?,
                status: status.as_deref().map(parse_status).transpose()?,
                limit,
                before: match before {
                    Some(id) => Some(resolve(hub, &id).await?),
                    None => None,
                },
            };
            let sessions = list(hub, &params).await?;
            output.data(&sessions, || {
                let table = Table::new("ID")
                    .state("STATE", 1)
                    .column("TURNS", 2)
                    .column("STARTED", 4)
                    .text("MODEL", 3)
                    .text("TASK", 0);
                output.table(&table.rows(tree(&sessions).into_iter().map(|(depth, view)| row(depth, view))))
            });
            more_of_list(&params, &sessions, output);
        }
        SessionCommand::Get { id } => {
            let view: SessionView = hub.client.call(Operation::SessionGet, &target(hub, &id).await?).await?;
            output.data(&view, || described(&view));
            if view.questions.iter().any(|question| matches!(question.asked, Asked::Person { .. })) {
                output.hint(&format!("answer with `oubliette session answer {} \"…\"`", view.session_id));
            }
        }
        SessionCommand::Events { id, follow, cursor } => {
            let session = resolve(hub, &id).await?;
            let until = if follow { Until::Over } else { Until::Now };
            let watch = Watch { hub, output, session, cursor, until, on_interrupt: OnInterrupt::Detach };
            let id = watch.session.clone();
            if let Watched::Detached { cursor } = watch.run().await? {
                watch::tell_way_back(&id, cursor, output);
            }
        }
        SessionCommand::Message { id, message } => {
            let params = SessionMessage {
                session_id: resolve(hub, &id).await?,
                message,
                caller_id: None,
                caller_tools: Vec::new(),
            };
            let accepted: SessionAccepted = hub.client.call(Operation::SessionMessage, &params).await?;
            output.data(&accepted, || {
                let model = text::one_line(&accepted.model.to_string());
                format!("turn {} of {}; model: {model}\n", accepted.turn, accepted.session_id)
            });
        }
        SessionCommand::Answer { id, answer, question } => {
            let params = SessionAnswer {
                session_id: resolve(hub, &id).await?,
                question_id: question.as_deref().map(parse_question).transpose()?,
                answer,
            };
            let question: Question = hub.client.call(Operation::SessionAnswer, &params).await?;
            output
                .data(&question, || format!("answered {} of {}\n", question.question_id, params.session_id));
        }
        SessionCommand::Respond { id, request, result, error } => {
            let (result, error) =
                if error { (None, Some(result)) } else { (Some(json_or_text(result)), None) };
            let params = CallerToolResponse {
                session_id: resolve(hub, &id).await?,
                request_id: parse_question(&request)?,
                result,
                error,
            };
            let question: Question = hub.client.call(Operation::CallerToolResponse, &params).await?;
            output
                .data(&question, || format!("answered {} of {}\n", question.question_id, params.session_id));
        }
        SessionCommand::Interrupt { id } => {
            change(hub, Operation::SessionInterrupt, &id, "interrupted", output).await?;
        }
        SessionCommand::End { id } => change(hub, Operation::SessionEnd, &id, "ended", output).await?,
        SessionCommand::Diff { id } => {
            let diff = diff(hub, &id).await?;
            if output.json {
                output.json_line(&diff);
            } else {
                patch::show(&diff.patch, output);
            }
        }
        SessionCommand::Apply { id, to, check } => {
            let diff = diff(hub, &id).await?;
            if diff.patch.is_empty() && !diff.in_place {
                output.data(&json!({ "session_id": diff.session_id, "applied": false, "files": [] }), || {
                    "nothing to apply\n".to_owned()
                });
                return Ok(OK);
            }
            let folder = patch::target(&diff, to.map(|folder| hub.context.cwd.join(folder)))?;
            patch::apply(&diff, &folder, check)?;
            let value = json!({
                "session_id": diff.session_id, "applied": !check, "folder": folder, "files": diff.files,
            });
            output.data(&value, || {
                let files = text::plural(diff.files.len(), "file");
                let what = if check { "would change" } else { "changed" };
                format!("{what} {files} in {}\n", folder.display())
            });
        }
    }
    Ok(OK)
}

/// Says what a list does not show.
fn more_of_list(params: &SessionList, sessions: &[SessionView], output: &Output) {
    let limit = params.limit.map_or(LIST_DEFAULT, |limit| limit as usize);
    match sessions.last() {
        None => output.hint("no such session; start one with `oubliette run \"TASK\" --project DIR`"),
        Some(last) if sessions.len() >= limit => {
            output.hint(&format!(
                "there may be older ones: `oubliette session list --before {}`",
                last.session_id
            ));
        }
        Some(_) => {}
    }
}

async fn change(
    hub: &Hub,
    operation: Operation,
    id: &str,
    done: &str,
    output: &Output,
) -> Result<(), Refusal> {
    let target = target(hub, id).await?;
    let answer: Value = hub.client.call(operation, &target).await?;
    output.data(&answer, || format!("{done} {}\n", target.session_id));
    Ok(())
}

async fn diff(hub: &Hub, id: &str) -> Result<SessionDiff, Refusal> {
    Ok(hub.client.call(Operation::SessionDiff, &target(hub, id).await?).await?)
}

async fn target(hub: &Hub, id: &str) -> Result<SessionTarget, Refusal> {
    Ok(SessionTarget { session_id: resolve(hub, id).await? })
}

async fn list(hub: &Hub, params: &SessionList) -> Result<Vec<SessionView>, Refusal> {
    Ok(hub.client.call(Operation::SessionList, params).await?)
}

/// The session that was meant: a whole id, `last`, or the end of an id.
async fn resolve(hub: &Hub, typed: &str) -> Result<SessionId, Refusal> {
    if let Ok(id) = typed.parse::<SessionId>() {
        return Ok(id);
    }
    let limit = if typed == "last" { 1 } else { LOOK_UP_MAX };
    let newest = list(hub, &SessionList { limit: Some(limit), ..SessionList::default() }).await?;
    choose(typed, newest.into_iter().map(|view| view.session_id).collect())
}

/// Among ids, newest first.
fn choose(typed: &str, ids: Vec<SessionId>) -> Result<SessionId, Refusal> {
    let unknown = || {
        Refusal::not_found("session", text::cut(&text::one_line(typed), 80))
            .fix("list them with `oubliette session list`")
    };
    if typed == "last" {
        return ids.into_iter().next().ok_or_else(|| {
            Refusal::not_found("session", "last").fix("start one with `oubliette run \"TASK\" --project DIR`")
        });
    }
    if typed.is_empty() {
        return Err(unknown());
    }
    let mut fitting: Vec<SessionId> = ids.into_iter().filter(|id| id.as_str().ends_with(typed)).collect();
    match (fitting.pop(), fitting.is_empty()) {
        (Some(id), true) => Ok(id),
        (None, _) => Err(unknown()),
        (Some(id), false) => {
            fitting.push(id);
            let some: Vec<&str> = fitting.iter().take(5).map(SessionId::as_str).collect();
            Err(Refusal::conflict(format!("`{typed}` is the end of {} sessions", fitting.len()))
                .fix(format!("type more of it: {}", some.join(", "))))
        }
    }
}

fn parse_question(text: &str) -> Result<QuestionId, Refusal> {
    text.parse().map_err(|_| {
        Refusal::invalid(format!("`{}` is no id of a question", text::one_line(text)))
            .fix("see what is open: `oubliette session get`")
    })
}

fn json_or_text(text: String) -> Value {
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn parse_status(text: &str) -> Result<SessionStatus, Refusal> {
    serde_json::from_value(text.into()).map_err(|_| {
        Refusal::invalid(format!("`{}` is no status of a session", text::one_line(text)))
            .fix("use `active`, `completed` or `failed`")
    })
}

/// Sessions in the order of the list, each with those that it started right behind it, the first one first, and how deep it
/// is among them. One whose parent is not further down the list, where what is older is, stands where it was.
fn tree(sessions: &[SessionView]) -> Vec<(usize, &SessionView)> {
    let places: HashMap<&SessionId, usize> =
        (0..).zip(sessions).map(|(at, view)| (&view.session_id, at)).collect();
    let mut children: HashMap<&SessionId, Vec<&SessionView>> = HashMap::new();
    let (mut open, mut shown) = (Vec::new(), Vec::with_capacity(sessions.len()));
    for (at, view) in sessions.iter().enumerate().rev() {
        match view.parent_id.as_ref().filter(|parent| places.get(parent).is_some_and(|place| *place > at)) {
            Some(parent) => children.entry(parent).or_default().push(view),
            None => open.push((0, view)),
        }
    }
    while let Some((depth, view)) = open.pop() {
        shown.push((depth, view));
        let of_it = children.remove(&view.session_id).unwrap_or_default();
        open.extend(of_it.into_iter().rev().map(|child| (depth + 1, child)));
    }
    shown
}

fn row(depth: usize, view: &SessionView) -> Vec<String> {
    let branch = if depth == 0 { String::new() } else { format!("{}└ ", "·".repeat(depth - 1)) };
    vec![
        view.session_id.to_string(),
        if view.isolated { view.state.clone() } else { format!("{} (UNSAFE)", view.state) },
        view.turns.to_string(),
        text::instant(view.created_at),
        view.model.to_string(),
        branch + &view.title,
    ]
}

fn described(view: &SessionView) -> String {
    let books = &view.ledger;
    let limit = books.limits.max_cost.map(|limit| format!(" of {limit}")).unwrap_or_default();
    let state = match &view.reason {
        Some(reason) => format!("{} ({reason})", view.state),
        None => view.state.clone(),
    };
    let mut lines = vec![
        ("session", view.session_id.to_string()),
        ("state", state),
        ("task", view.title.clone()),
        ("model", view.model.to_string()),
        ("agent", view.agent.clone()),
        ("backend", marked_backend(&view.backend)),
        ("limits", limits(view)),
        ("project", view.project_id.to_string()),
        ("workspace", view.workspace_id.to_string()),
        ("turns", view.turns.to_string()),
        ("events", (view.last_index + 1).to_string()),
        ("used", format!("{} tokens, {}{limit}", books.used.tokens, books.used.cost)),
        ("started", text::instant(view.created_at)),
        ("changed", text::instant(view.updated_at)),
    ];
    lines.extend(view.parent_id.as_ref().map(|parent| ("parent", parent.to_string())));
    lines.extend(view.questions.iter().map(|question| ("asks", asks(question))));
    lines.iter().map(|(name, value)| format!("{name:<10} {}\n", text::one_line(value))).collect()
}

/// A question, what may be answered, and until when.
fn asks(question: &Question) -> String {
    let what = match &question.asked {
        Asked::Person { text, choices } if choices.is_empty() => text.clone(),
        Asked::Person { text, choices } => format!("{text} [{}]", choices.join(" | ")),
        Asked::CallerTool { tool, arguments } => format!("{tool} {}", Value::Object(arguments.clone())),
    };
    format!("{} until {}: {what}", question.question_id, text::instant(question.expires_at))
}

/// Whether the limits of its sandbox are held.
fn limits(view: &SessionView) -> String {
    match view.enforcement.as_ref().map(Enforcement::missing) {
        None => "no sandbox yet".to_owned(),
        Some(missing) if missing.is_empty() => "held".to_owned(),
        Some(missing) => {
            let names: Vec<&str> = missing.into_iter().map(Resource::as_str).collect();
            format!("NOT HELD: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use ob_core::RefusalCode;

    use super::*;

    #[test]
    fn children_stand_behind_the_session_that_started_them() {
        let id = |n: u32| format!("gogol_20261118_110640_{n:08x}").parse::<SessionId>().expect("an id");
        let view = |n: u32, parent: Option<u32>| -> SessionView {
            let mut view = super::super::run::tests::view("active", None);
            (view.session_id, view.parent_id) = (id(n), parent.map(id));
            view
        };
        // Newest first, as the server lists them.
        let listed = [
            view(6, Some(3)),
            view(5, Some(9)),
            view(4, Some(2)),
            view(3, Some(1)),
            view(2, Some(1)),
            view(1, None),
        ];
        let shown: Vec<(usize, SessionId)> =
            tree(&listed).into_iter().map(|(depth, view)| (depth, view.session_id.clone())).collect();
        let expected = [(0, 5), (0, 1), (1, 2), (2, 4), (1, 3), (2, 6)];
        assert_eq!(
            shown,
            expected.map(|(depth, n)| (depth, id(n))),
            "5 is of a session that is not in the list"
        );
        assert_eq!(
            row(2, &listed[0]).last().map(String::as_str),
            Some(format!("·└ {}", listed[0].title).as_str())
        );
        // A server that says that two are each other's parents hides neither.
        let wrong = [view(2, Some(1)), view(1, Some(2))];
        assert_eq!(tree(&wrong).len(), 2);
    }

    #[test]
    fn an_id_may_be_cut_to_an_end_that_one_session_has() {
        let id =
            |suffix: &str| format!("gogol_20261118_110640_{suffix}").parse::<SessionId>().expect("an id");
        let ids = || vec![id("aaaa1111"), id("bbbb2222"), id("cccc2222")];
        assert_eq!(choose("last", ids()), Ok(id("aaaa1111")));
        assert_eq!(choose("1111", ids()), Ok(id("aaaa1111")));
        assert_eq!(choose("bbbb2222", ids()), Ok(id("bbbb2222")));
        let ambiguous = choose("2222", ids()).expect_err("two have it");
        assert_eq!(ambiguous.code, RefusalCode::Conflict);
        assert!(ambiguous.fix.is_some_and(|fix| fix.contains("bbbb2222") && fix.contains("cccc2222")));
        for wrong in ["", "3333", "\x1b[2J"] {
            let refusal = choose(wrong, ids()).expect_err("none has it");
            assert_eq!(refusal.code, RefusalCode::NotFound);
            assert!(!refusal.message.contains('\x1b'));
        }
        assert!(choose("last", Vec::new()).is_err());
    }
}
