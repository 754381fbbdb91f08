//! `oubliette audit`: straight on `audit.db`, so that it works with the server up or down.

use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::audit::AuditRow;
use ob_core::audit::Verdict;
use ob_store::audit::AuditPage;
use ob_store::audit::SharedAudit;

use super::Context;
use super::FAILED;
use super::OK;
use super::args::AuditCommand;
use super::args::Global;
use super::output::Output;
use super::table::Table;
use super::text;

/// Entries that are read at once.
const PAGE: usize = 1000;

/// Runs the command.
pub(crate) async fn command(
    command: AuditCommand,
    context: &Context,
    global: &Global,
    output: &Output,
) -> Result<u8, Refusal> {
    let home = super::load(context, global)?.home;
    let file = home.audit_database();
    if !file.exists() {
        return Err(Refusal::new(RefusalCode::NotFound, format!("there is no audit at {}", file.display()))
            .fix("it begins with the first server or token of a home; name another home with `--dir`"));
    }
    let audit = ob_store::sqlite::open_audit(&file).await.map_err(|error| error.refusal())?;
    perform(command, &audit, output).await
}

async fn perform(command: AuditCommand, audit: &SharedAudit, output: &Output) -> Result<u8, Refusal> {
    match command {
        AuditCommand::List { limit, before } => {
            let page = AuditPage::Before(before.unwrap_or(u64::MAX));
            let rows = audit.page(page, limit).await.map_err(|error| error.refusal())?;
            output.data(&rows, || output.table(&table(&rows)));
            Ok(OK)
        }
        AuditCommand::Verify => {
            let verdict = audit.verify().await.map_err(|error| error.refusal())?;
            output.data(&verdict, || {
                let found: String = verdict.faults.iter().map(|fault| format!("{fault}\n")).collect();
                let intact = if verdict.intact { "intact" } else { "NOT intact" };
                format!("{found}{intact}: {} entries, head {}\n", verdict.entries, verdict.head)
            });
            if verdict.intact {
                output.hint(
                    "keep the head elsewhere: it tells later whether anything before it was written anew",
                );
            }
            Ok(if verdict.intact { OK } else { FAILED })
        }
        AuditCommand::Export { after, ocsf } => {
            let mut after = after;
            loop {
                let rows = audit.page(AuditPage::After(after), PAGE).await;
                let rows = rows.map_err(|error| error.refusal())?;
                let Some(last) = rows.last() else { return Ok(OK) };
                after = last.seq;
                for row in &rows {
                    if ocsf { output.json_line(&row.ocsf()) } else { output.json_line(row) }
                }
            }
        }
    }
}

fn table(rows: &[AuditRow]) -> Table<'static> {
    Table::new("SEQ")
        .column("AT", 3)
        .column("WHO", 1)
        .column("WHAT", 0)
        .state("VERDICT", 0)
        .column("ABOUT", 2)
        .column("REQUEST", 4)
        .rows(rows.iter().map(|row| {
            let entry = &row.entry;
            let about: Vec<_> = entry.about.iter().map(|(kind, id)| format!("{kind} {id}")).collect();
            vec![
                row.seq.to_string(),
                text::instant(entry.at),
                entry.principal.clone(),
                entry.operation.clone(),
                match (entry.verdict, entry.code) {
                    (Verdict::Permitted, _) => "permitted".to_owned(),
                    (Verdict::Refused, None) => "refused".to_owned(),
                    (Verdict::Refused, Some(code)) => code.to_string(),
                },
                about.join(", "),
                entry.request_id.clone().unwrap_or_default(),
            ]
        }))
}
