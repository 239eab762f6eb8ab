"""The split: no document in two parts, labels that fit their tasks, and which document is dealt to which part."""

from __future__ import annotations

import numpy as np

from empirics.audit.opened import RunFiles
from empirics.audit.result import Check, Tally


def check_split(files: RunFiles) -> Check:
    """Numbers, tasks, labels and clusters of the documents that were held out."""
    tally = Tally(
        "split", "no document in two parts or twice in one; tasks, labels and clusters that fit; sizes as run.json tells them", "compared"
    )
    documents = files.about["documents"]
    total = sum(documents.values())
    test, query = (frame["document"].to_numpy() for frame in (files.test, files.query))
    both = np.intersect1d(test, query)
    tally.count += test.size + query.size
    if both.size:
        tally.find("predictions.parquet and calibration.parquet", f"share {both.size} documents, the first number {both[0]}")
    starts = np.cumsum([0, *files.classes])
    for table, frame, part in (("predictions", files.test, "test"), ("calibration", files.query, "query")):
        ids, task, label, cluster = (frame[name].to_numpy() for name in ("document", "task", "label", "cluster"))
        tally.same(f"{table}.parquet: documents", len(frame), documents[part])
        values, counts = np.unique(ids, return_counts=True)
        tally.true(f"{table}.parquet: document", (counts == 1).all(), f"number {values[counts.argmax()]} stands {counts.max()} times")
        tally.true(lambda j, t=table: f"{t}.parquet, row {j}, document", (ids >= 0) & (ids < total), f"is not one of {total} documents")
        known = (task >= 0) & (task < len(files.names))
        tally.true(lambda j, t=table: f"{t}.parquet, row {j}, task", known, f"is none of {len(files.names)} tasks")
        if not known.all():
            continue
        sizes = np.array(files.classes)[task]
        tally.true(lambda j, t=table: f"{t}.parquet, row {j}, label", (label >= 0) & (label < sizes), "is no class of its task")
        tally.same(lambda j, t=table: f"{t}.parquet, row {j}, cluster", cluster, starts[task] + label)
        cap = files.config["stream"].get(f"{part}_per_class")
        if cap is not None:
            tally.true(
                lambda c, t=table: f"{t}.parquet, class {c}", np.bincount(cluster, minlength=1) <= cap, f"has more than {cap} documents"
            )
    _dealt_in_order(files, tally)
    return tally.check()


def _dealt_in_order(files: RunFiles, tally: Tally) -> None:
    """The two shipped streams of texts keep the order in which they were dealt: class by class, train, query, test, reservoir.

    With the classes' training documents, which signatures count, every document's part then follows from its number.
    """
    stream, signature = files.config["stream"], files.config["signature"]
    ordered = stream["path"] is None and stream["name"] in ("text-5t", "news-4t")
    if not ordered or not files.by_class or signature["held_out"] != 0:
        tally.skip("which documents were training and reservoir documents: --data deals the stream anew")
        return
    train = files.signatures(files.keys[0])["counts"]
    query, test = (np.bincount(frame["cluster"], minlength=train.size) for frame in (files.query, files.test))
    total, start = sum(files.about["documents"].values()), 0
    for c, name in enumerate(files.class_names):
        for part, table, frame, offset, size in (
            ("query", "calibration", files.query, train[c], query[c]),
            ("test", "predictions", files.test, train[c] + query[c], test[c]),
        ):
            ids = frame["document"].to_numpy()[frame["cluster"].to_numpy() == c]
            tally.true(
                f"{table}.parquet, {name}",
                np.array_equal(np.sort(ids), start + offset + np.arange(size)),
                f"does not hold the {size} documents from number {start + offset} on, which is what the stream deals to its {part} part",
            )
        later = files.test["document"].to_numpy()[files.test["cluster"].to_numpy() == c + 1]
        end = total if c + 1 == train.size else int(later.min()) - int(query[c + 1]) - int(train[c + 1]) if later.size else start
        reservoir = end - start - int(train[c] + query[c] + test[c])
        tally.true(
            f"run.json: documents, {name}", 0 <= reservoir <= stream["reservoir_per_class"], f"leave {reservoir} reservoir documents"
        )
        start = end
