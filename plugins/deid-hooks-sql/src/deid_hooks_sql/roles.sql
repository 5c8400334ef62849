-- Roles of least privilege for a de-id log in PostgreSQL. Run it as the owner of its tables, who
-- may make roles, in the log's database, and again after each upgrade of the log; adapt the schema
-- in the next statement if it isn't public.
SET search_path = public, pg_temp;

-- Those who upload: append, and learn that what they appended is there whole. They can't read an
-- identifying column. deid_log_receipt answers in the owner's name.
DO $$ BEGIN CREATE ROLE deid_upload NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

-- Those who search and re-identify: read, and add to the access trail, which nobody but the owner
-- can change or shorten.
DO $$ BEGIN CREATE ROLE deid_search NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;

-- One cell of a row, so written that two rows never look alike.
CREATE OR REPLACE FUNCTION deid_log_piece(cell text) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT CASE WHEN cell IS NULL THEN '-' ELSE length(cell) || ':' || cell END $$;

-- What may be known of an entry by those who may not read it, and whether all of its rows are as
-- they were written.
DROP FUNCTION IF EXISTS deid_log_sealed(text); -- its name before version 2
CREATE OR REPLACE FUNCTION deid_log_receipt(wanted text)
RETURNS TABLE (project text, digest text, "key" text, patients text, deid_uids text[], whole boolean)
STABLE SECURITY DEFINER SET search_path FROM CURRENT LANGUAGE sql AS
$$
    SELECT log.project, log.digest, log."key", log.patients,
           ARRAY(SELECT i.deid_SOPInstanceUID FROM deid_instance i WHERE i.entry = log.seq ORDER BY i."key"),
           log.rows_digest = sha256(convert_to(
               (SELECT string_agg(deid_log_piece(cell), '' ORDER BY place)
                FROM unnest(ARRAY[
                    {cells},
                    encode(log.exact, 'hex')
                ]::text[]) WITH ORDINALITY AS cells (cell, place)){later}
               || (SELECT count(*) || '#' || coalesce(string_agg(
                       deid_log_piece(SOPInstanceUID) || deid_log_piece(deid_SOPInstanceUID)
                       || deid_log_piece(originals) || deid_log_piece(encode(exact, 'hex')),
                       '' ORDER BY "key"), '') FROM deid_instance WHERE entry = log.seq)
               || (SELECT count(*) || '#' || coalesce(string_agg(
                       deid_log_piece(deid_uid) || deid_log_piece(uid)
                       || deid_log_piece(encode(exact, 'hex')),
                       '' ORDER BY "key"), '') FROM deid_uid WHERE entry = log.seq)
               || (SELECT count(*) || '#' || coalesce(string_agg(
                       deid_log_piece(keyword) || deid_log_piece(value)
                       || deid_log_piece(encode(exact, 'hex')) || deid_log_piece(part::text),
                       '' ORDER BY "key"), '') FROM deid_value WHERE entry = log.seq AND part = 0)
               || (SELECT count(*) || '#' || coalesce(string_agg(
                       deid_log_piece(l.digest) || deid_log_piece(encode(l.exact, 'hex'))
                       || deid_log_piece(encode(sha256(l.value), 'hex')),
                       '' ORDER BY l.digest), '')
                  FROM deid_large p JOIN deid_log_large l ON l."key" = p.large WHERE p.entry = log.seq),
               'UTF8'))
    FROM deid_log log WHERE log.id = wanted
$$;
REVOKE EXECUTE ON FUNCTION deid_log_receipt(text) FROM PUBLIC;

GRANT SELECT, UPDATE (last) ON deid_log_store TO deid_upload, deid_search;

GRANT INSERT ON deid_log, deid_instance, deid_uid, deid_value, deid_word, deid_large, deid_log_large,
    deid_log_upload TO deid_upload;
GRANT SELECT (seq, id, project, digest, patients, deid_PatientID, odd, rows_digest) ON deid_log TO deid_upload;
GRANT SELECT ON deid_log_upload, deid_log_tombstone, deid_log_block, deid_log_chain TO deid_upload;
GRANT INSERT ON deid_log_chain TO deid_upload;
GRANT EXECUTE ON FUNCTION deid_log_receipt(text) TO deid_upload;

GRANT SELECT ON deid_log, deid_instance, deid_uid, deid_value, deid_word, deid_large, deid_log_large,
    deid_log_upload, deid_log_access, deid_log_chain, deid_log_tombstone, deid_log_block, deid_log_instance,
    deid_log_uid, deid_log_value, deid_log_word, deid_log_subject TO deid_search;
GRANT INSERT ON deid_log_access, deid_log_chain TO deid_search;
