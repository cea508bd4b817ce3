CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
CREATE TABLE registry (
	id INTEGER NOT NULL, 
	format INTEGER NOT NULL, 
	created_at TEXT NOT NULL, 
	written_by TEXT NOT NULL, 
	base_id TEXT NOT NULL, 
	base_architecture TEXT NOT NULL, 
	base_pretrained TEXT NOT NULL, 
	base_activation TEXT NOT NULL, 
	base_weights_sha256 TEXT NOT NULL, 
	base_image_size INTEGER NOT NULL, 
	method TEXT NOT NULL, 
	codec TEXT NOT NULL, 
	codec_options TEXT NOT NULL, 
	parameters TEXT NOT NULL, fingerprint TEXT, method_options TEXT DEFAULT '{}' NOT NULL, base_preparation TEXT, 
	CONSTRAINT pk_registry PRIMARY KEY (id), 
	CONSTRAINT ck_registry_single_row CHECK (id = 1)
);
CREATE TABLE blobs (
	sha256 TEXT NOT NULL, 
	size INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	CONSTRAINT pk_blobs PRIMARY KEY (sha256), 
	CONSTRAINT ck_blobs_sha256_length CHECK (length(sha256) = 64), 
	CONSTRAINT ck_blobs_size CHECK (size >= 0)
);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	ordinal INTEGER NOT NULL, 
	parent TEXT, 
	kind TEXT NOT NULL, 
	task TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	shared TEXT, 
	note TEXT NOT NULL, codec TEXT, 
	CONSTRAINT pk_sessions PRIMARY KEY (id), 
	CONSTRAINT fk_sessions_parent FOREIGN KEY(parent) REFERENCES sessions (id), 
	CONSTRAINT fk_sessions_shared FOREIGN KEY(shared) REFERENCES blobs (sha256), 
	CONSTRAINT uq_sessions_ordinal UNIQUE (ordinal), 
	CONSTRAINT ck_sessions_id_length CHECK (length(id) = 64)
);
CREATE INDEX ix_sessions_parent ON sessions (parent);
CREATE INDEX ix_sessions_shared ON sessions (shared);
CREATE TABLE head (
	id INTEGER NOT NULL, 
	session TEXT, 
	CONSTRAINT pk_head PRIMARY KEY (id), 
	CONSTRAINT fk_head_session FOREIGN KEY(session) REFERENCES sessions (id), 
	CONSTRAINT ck_head_single_row CHECK (id = 1)
);
CREATE TABLE operations (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	from_session TEXT, 
	to_session TEXT, 
	command TEXT NOT NULL, 
	CONSTRAINT fk_operations_from_session FOREIGN KEY(from_session) REFERENCES sessions (id), 
	CONSTRAINT fk_operations_to_session FOREIGN KEY(to_session) REFERENCES sessions (id)
);
CREATE TABLE tags (
	name TEXT NOT NULL, 
	session TEXT NOT NULL, 
	created_at TEXT NOT NULL, 
	CONSTRAINT pk_tags PRIMARY KEY (name), 
	CONSTRAINT fk_tags_session FOREIGN KEY(session) REFERENCES sessions (id)
);
CREATE INDEX ix_tags_session ON tags (session);
CREATE TABLE packs (
	session TEXT NOT NULL, 
	reference TEXT NOT NULL, 
	patch TEXT, 
	CONSTRAINT pk_packs PRIMARY KEY (session), 
	CONSTRAINT fk_packs_session FOREIGN KEY(session) REFERENCES sessions (id), 
	CONSTRAINT fk_packs_reference FOREIGN KEY(reference) REFERENCES sessions (id), 
	CONSTRAINT fk_packs_patch FOREIGN KEY(patch) REFERENCES blobs (sha256), 
	CONSTRAINT ck_packs_reference CHECK (session <> reference)
);
CREATE INDEX ix_packs_reference ON packs (reference);
CREATE INDEX ix_packs_patch ON packs (patch);
CREATE TABLE collected (
	session TEXT NOT NULL, 
	at TEXT NOT NULL, 
	CONSTRAINT pk_collected PRIMARY KEY (session), 
	CONSTRAINT fk_collected_session FOREIGN KEY(session) REFERENCES sessions (id)
);
CREATE TABLE sources (
	expert INTEGER NOT NULL, 
	folder TEXT NOT NULL, 
	CONSTRAINT pk_sources PRIMARY KEY (expert), 
	CONSTRAINT fk_sources_expert FOREIGN KEY(expert) REFERENCES experts (id)
);
CREATE TABLE session_tasks (
	session TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	expert INTEGER NOT NULL, 
	part TEXT NOT NULL, 
	drift FLOAT, 
	record TEXT NOT NULL, 
	codec_options TEXT NOT NULL, 
	CONSTRAINT pk_session_tasks PRIMARY KEY (session, position), 
	CONSTRAINT fk_session_tasks_session FOREIGN KEY(session) REFERENCES sessions (id), 
	CONSTRAINT fk_session_tasks_expert FOREIGN KEY(expert) REFERENCES experts (id), 
	CONSTRAINT fk_session_tasks_part FOREIGN KEY(part) REFERENCES blobs (sha256), 
	CONSTRAINT uq_session_tasks_session_name UNIQUE (session, name), 
	CONSTRAINT ck_session_tasks_position CHECK (position >= 0)
);
CREATE INDEX ix_session_tasks_expert ON session_tasks (expert);
CREATE INDEX ix_session_tasks_part ON session_tasks (part);
CREATE TABLE experts (
	id INTEGER NOT NULL, 
	learned_in TEXT NOT NULL, 
	classes TEXT NOT NULL, 
	templates TEXT NOT NULL, 
	prototypes TEXT NOT NULL, 
	head TEXT, 
	training TEXT NOT NULL, 
	CONSTRAINT pk_experts PRIMARY KEY (id), 
	CONSTRAINT fk_experts_learned_in FOREIGN KEY(learned_in) REFERENCES sessions (id), 
	CONSTRAINT fk_experts_prototypes FOREIGN KEY(prototypes) REFERENCES blobs (sha256), 
	CONSTRAINT fk_experts_head FOREIGN KEY(head) REFERENCES blobs (sha256)
);
CREATE INDEX ix_experts_learned_in ON experts (learned_in);
CREATE INDEX ix_experts_prototypes ON experts (prototypes);
CREATE INDEX ix_experts_head ON experts (head);
