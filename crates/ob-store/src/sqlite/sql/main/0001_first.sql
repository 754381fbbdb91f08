-- Times are microseconds since the Unix epoch, UTC. Ids are text, keys are integers of this file only and never used again.

CREATE TABLE meta (
  name  TEXT PRIMARY KEY,
  value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO meta (name, value) VALUES ('next_project_number', 1), ('checked_at', 0);

CREATE TABLE epochs (
  epoch    INTEGER PRIMARY KEY AUTOINCREMENT,
  taken_at INTEGER NOT NULL
) STRICT;

CREATE TABLE projects (
  key    INTEGER PRIMARY KEY AUTOINCREMENT,
  id     TEXT NOT NULL UNIQUE,
  number INTEGER NOT NULL UNIQUE,
  record TEXT NOT NULL
) STRICT;

CREATE TABLE workspaces (
  key         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  project_key INTEGER NOT NULL REFERENCES projects (key) ON DELETE CASCADE,
  record      TEXT NOT NULL
) STRICT;
CREATE INDEX workspaces_project ON workspaces (project_key, key);

CREATE TABLE trees (
  key             INTEGER PRIMARY KEY AUTOINCREMENT,
  id              TEXT NOT NULL UNIQUE,
  max_cost        INTEGER,
  max_tokens      INTEGER,
  reserved_cost   INTEGER NOT NULL DEFAULT 0,
  reserved_tokens INTEGER NOT NULL DEFAULT 0,
  used_cost       INTEGER NOT NULL DEFAULT 0,
  used_tokens     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE sessions (
  key           INTEGER PRIMARY KEY AUTOINCREMENT,
  id            TEXT NOT NULL UNIQUE,
  project_key   INTEGER NOT NULL REFERENCES projects (key) ON DELETE CASCADE,
  workspace_key INTEGER REFERENCES workspaces (key) ON DELETE SET NULL,
  tree_key      INTEGER NOT NULL REFERENCES trees (key),
  parent_key    INTEGER REFERENCES sessions (key) ON DELETE SET NULL,
  epoch         INTEGER,
  state         TEXT NOT NULL,
  status        TEXT NOT NULL,
  record        TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_project ON sessions (project_key, key);
CREATE INDEX sessions_workspace ON sessions (workspace_key);
CREATE INDEX sessions_tree ON sessions (tree_key);
CREATE INDEX sessions_parent ON sessions (parent_key);
CREATE INDEX sessions_active ON sessions (key) WHERE status = 'active';

-- No foreign key: the writer knows that the session exists, and the events of a deleted one are purged in pieces.
-- `version` is that of the payload. A large payload is in a blob file of which `blob` is the SHA-256.
CREATE TABLE events (
  session_key INTEGER NOT NULL,
  seq         INTEGER NOT NULL,
  at          INTEGER NOT NULL,
  kind        INTEGER NOT NULL,
  version     INTEGER NOT NULL,
  payload     TEXT,
  blob        BLOB,
  PRIMARY KEY (session_key, seq)
) STRICT, WITHOUT ROWID;

-- Sessions that are deleted and may still have events.
CREATE TABLE purges (
  session_key INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE turns (
  session_key INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
  number      INTEGER NOT NULL,
  state       TEXT NOT NULL,
  record      TEXT NOT NULL,
  PRIMARY KEY (session_key, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE drivers (
  session_key INTEGER PRIMARY KEY REFERENCES sessions (key) ON DELETE CASCADE,
  state       BLOB NOT NULL
) STRICT;

CREATE TABLE charges (
  key         INTEGER PRIMARY KEY AUTOINCREMENT,
  id          TEXT NOT NULL UNIQUE,
  tree_key    INTEGER NOT NULL REFERENCES trees (key) ON DELETE CASCADE,
  session_key INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
  cost        INTEGER NOT NULL,
  tokens      INTEGER NOT NULL,
  reserved_at INTEGER NOT NULL,
  used_cost   INTEGER,
  used_tokens INTEGER,
  settled_at  INTEGER
) STRICT;
CREATE INDEX charges_tree ON charges (tree_key);
CREATE INDEX charges_session ON charges (session_key);
CREATE INDEX charges_open ON charges (key) WHERE settled_at IS NULL;
