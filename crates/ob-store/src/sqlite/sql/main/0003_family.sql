-- What a tree may be beside what it may spend, and since when it is. Who is in it is what `sessions` says.
ALTER TABLE trees ADD COLUMN max_depth INTEGER;
ALTER TABLE trees ADD COLUMN max_agents INTEGER;
ALTER TABLE trees ADD COLUMN max_live INTEGER;
ALTER TABLE trees ADD COLUMN max_wall_ms INTEGER;
ALTER TABLE trees ADD COLUMN began_at INTEGER;
