//! Rows under a header, as wide as there is room.
//!
//! In a pipe every cell is whole. On a terminal text is cut first, then columns are left out, the least telling ones
//! first; ids and times are whole or not there, since a piece of one is of no use. The first column is never touched: it is
//! what the next command is given.

use super::paint::Ink;
use super::paint::Paint;
use super::text;

/// Between columns.
const GAP: &str = "  ";
/// Text is not cut below this while there is a column to leave out.
const READABLE: usize = 16;

/// What becomes of a column where there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// It is text, and may be cut.
    is_text: bool,
    /// It may be left out: those with the highest number go first, and zero never goes.
    goes: u8,
}

/// Rows under a header.
#[derive(Debug, Default)]
pub(crate) struct Table<'a> {
    header: Vec<&'a str>,
    rooms: Vec<Room>,
    /// The column whose words have colours.
    state: Option<usize>,
    rows: Vec<Vec<String>>,
}

// === impl Table ===

impl<'a> Table<'a> {
    /// A table whose first column is called so.
    pub(crate) fn new(first: &'a str) -> Self {
        Self {
            header: vec![first],
            rooms: vec![Room { is_text: false, goes: 0 }],
            state: None,
            rows: Vec::new(),
        }
    }

    /// Adds a column that may be left out; of several those with the highest number go first.
    pub(crate) fn column(self, name: &'a str, goes: u8) -> Self {
        self.with(name, Room { is_text: false, goes })
    }

    /// Adds a column that tells how things are, in colours.
    pub(crate) fn state(mut self, name: &'a str, goes: u8) -> Self {
        self.state = Some(self.header.len());
        self.with(name, Room { is_text: false, goes })
    }

    /// The first column tells how things are, in colours.
    pub(crate) fn state_first(mut self) -> Self {
        self.state = Some(0);
        self
    }

    /// Adds a column of text, which may be cut and then left out.
    pub(crate) fn text(self, name: &'a str, goes: u8) -> Self {
        self.with(name, Room { is_text: true, goes })
    }

    fn with(mut self, name: &'a str, room: Room) -> Self {
        self.header.push(name);
        self.rooms.push(room);
        self
    }

    /// Sets the rows; each cell is made safe and put on one line.
    pub(crate) fn rows(mut self, rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        self.rows = rows
            .into_iter()
            .map(|row| row.iter().map(|cell| text::expand(&text::one_line(cell))).collect())
            .collect();
        self
    }

    /// The text of it. No line ends in blanks.
    pub(crate) fn show(&self, width: Option<usize>, paint: Paint) -> String {
        let widths = self.widths(width);
        let line = |cells: &[&str], state: Option<usize>| {
            let cells: Vec<String> = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .filter_map(|(column, (cell, width))| {
                    let width = (*width)?;
                    let cell = text::cut(cell, width);
                    let pad = width - text::columns(&cell).min(width);
                    let ink = if state == Some(column) { ink(&cell) } else { Ink::Plain };
                    Some(format!("{}{:pad$}", paint.text(ink, &cell), ""))
                })
                .collect();
            cells.join(GAP).trim_end().to_owned()
        };
        let mut shown = paint.text(Ink::Bold, &line(&self.header, None)) + "\n";
        for row in &self.rows {
            shown.push_str(&line(&row.iter().map(String::as_str).collect::<Vec<_>>(), self.state));
            shown.push('\n');
        }
        shown
    }

    /// The width of each column that is shown.
    fn widths(&self, limit: Option<usize>) -> Vec<Option<usize>> {
        let mut widths: Vec<Option<usize>> =
            self.header.iter().map(|name| Some(text::columns(name))).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = width.map(|width| width.max(text::columns(cell)));
            }
        }
        let Some(limit) = limit else { return widths };
        loop {
            let mut cut = widths.clone();
            self.cut(&mut cut, limit, READABLE);
            if total(&cut) <= limit {
                return cut;
            }
            let here = self.rooms.iter().enumerate().filter(|(column, _)| widths[*column].is_some());
            let goes = here.filter(|(_, room)| room.goes > 0).max_by_key(|(_, room)| room.goes);
            let Some((column, _)) = goes else { break };
            // What is left of the others may be wider again without it.
            widths[column] = None;
        }
        self.cut(&mut widths, limit, 1);
        widths
    }

    /// Cuts text, the widest first, until all fits or no text is wider than `least`.
    fn cut(&self, widths: &mut [Option<usize>], limit: usize, least: usize) {
        while total(widths) > limit {
            let texts = widths.iter_mut().zip(&self.rooms).filter(|(_, room)| room.is_text);
            match texts.filter_map(|(width, _)| width.as_mut()).max() {
                Some(widest) if *widest > least => *widest -= 1,
                _ => break,
            }
        }
    }
}

/// What a word for how things are looks like.
fn ink(state: &str) -> Ink {
    match state {
        "ok" | "valid" | "ready" | "running" => Ink::Green,
        "missing" | "unusable" | "failed" | "revoked" => Ink::Red,
        "warn" | "interrupted" | "expired" => Ink::Yellow,
        _ if state.starts_with("waiting") => Ink::Yellow,
        "ended" | "asleep" => Ink::Dim,
        _ if state.contains("UNSAFE") => Ink::Red,
        _ => Ink::Plain,
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP.len() * shown.count().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions() -> Table<'static> {
        Table::new("ID")
            .state("STATE", 1)
            .column("TURNS", 2)
            .column("STARTED", 4)
            .text("MODEL", 3)
            .text("TASK", 0)
            .rows(
                [
                    [
                        "gogol_20261118_110640_deadbeef",
                        "running",
                        "3",
                        "2026-11-18 11:06:40Z",
                        "openai/gpt-5-mini",
                        "make the tests of the whole workspace pass",
                    ],
                    [
                        "gogol_20261118_110641_cafebabe",
                        "ended",
                        "12",
                        "2026-11-18 11:06:41Z",
                        "openai/gpt-5-mini",
                        "日本語のドキュメントを書く, evil\x1b[2J\nsecond line",
                    ],
                ]
                .map(|row| row.map(str::to_owned).to_vec()),
            )
    }

    #[test]
    fn a_table_fits_each_width() {
        let mut shown = String::new();
        for width in [160, 120, 100, 80, 60, 40] {
            let table = sessions().show(Some(width), Paint(false));
            assert!(table.lines().all(|line| text::columns(line) <= width), "{width}: {table}");
            assert_eq!(table.lines().count(), 3, "a row is a line");
            shown.extend([&format!("{width}\n"), &table, "\n"]);
        }
        insta::assert_snapshot!("table", shown);
    }

    #[test]
    fn the_first_column_is_whole_however_narrow_it_is() {
        for width in 1..40 {
            let table = sessions().show(Some(width), Paint(false));
            assert!(table.contains("gogol_20261118_110640_deadbeef"), "{width}: {table}");
        }
    }

    #[test]
    fn colours_change_no_width() {
        let plain = sessions().show(Some(80), Paint(false));
        let coloured = sessions().show(Some(80), Paint(true));
        assert!(coloured.contains("\x1b[32mrunning\x1b[0m  "), "{coloured:?}");
        assert_eq!(text::sanitise(&coloured), plain);
    }

    #[test]
    fn in_a_pipe_every_cell_is_whole_and_safe() {
        let table = sessions().show(None, Paint(false));
        assert!(table.contains("make the tests of the whole workspace pass\n"), "{table}");
        assert!(table.contains("evil second line\n") && !table.contains('\x1b'), "{table}");
        assert_eq!(Table::new("ID").text("NAME", 0).show(Some(10), Paint(false)), "ID  NAME\n");
        assert!(Table::new("ID").show(None, Paint(true)).starts_with("\x1b[1mID\x1b[0m\n"));
    }
}
