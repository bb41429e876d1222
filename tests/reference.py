"""What plans give, in a few lines of plain Python.

On one server a record is pulled from step to step, as the plan says it: an error goes to the end at
once, and stops the reader, but neither what is inside the plan nor the accumulators.

On a cluster every step works on what each shard has; only the initiator's own errors stop a reader,
so that here the initiator may read only if nothing fails. Where records meet, their order is open.
"""

import copy

from redis.crc import key_slot


class Failed(Exception):
    """An error record."""


def call(function, *arguments):
    try:
        return function(*arguments)
    except Exception as error:
        return Failed(type(error).__name__)


def reading(values, stop):
    for value in values:
        if stop:
            return
        yield value


def mapping(function, records):
    for record in records:
        yield record if isinstance(record, Failed) else call(function, record)


def filtering(function, records):
    for record in records:
        keep = True if isinstance(record, Failed) else call(function, record)
        if isinstance(keep, Failed):
            yield keep
        elif keep:
            yield record


def visiting(function, records):
    for record in records:
        done = None if isinstance(record, Failed) else call(function, record)
        yield done if isinstance(done, Failed) else record


def flattening(function, records):
    for record in mapping(function, records):
        if isinstance(record, list):
            yield from reversed(record)
        else:
            yield record


def accumulating(function, records):
    empty, accumulator = True, None
    for record in records:
        if isinstance(record, Failed):
            yield record
            continue
        empty, accumulator = False, call(function, accumulator, record)
        if isinstance(accumulator, Failed):
            yield accumulator
            empty, accumulator = True, None
    if not empty:
        yield accumulator


def limiting(length, start, records, reads_on=False):
    index = 0
    for record in records:
        if isinstance(record, Failed):
            yield record
            continue
        if index >= start + length and not reads_on:
            return
        if start <= index < start + length:
            yield record
        index += 1


def text_key(function, record):
    key = call(function, record)
    return key if isinstance(key, str | Failed) else repr(key)


def grouping(extractor, reducer, records):
    groups = {}
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        if isinstance(key, Failed):
            yield key
            continue
        groups[key] = call(reducer, key, groups.get(key), record)
        if isinstance(groups[key], Failed):
            yield groups.pop(key)
    for key, value in groups.items():
        yield {"key": key, "value": value}


def batch_grouping(extractor, reducer, records):
    groups = {}
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        if isinstance(key, Failed):
            yield key
        else:
            groups.setdefault(key, []).append(record)
    for key, batch in groups.items():
        value = call(reducer, key, batch)
        yield value if isinstance(value, Failed) else {"key": key, "value": value}


def aggregating(zero, sequence, combine, records):
    def start(accumulator):
        return accumulator if accumulator else copy.deepcopy(zero)

    first = accumulating(lambda a, r: sequence(start(a), r), records)
    return accumulating(lambda a, r: combine(start(a), r), first)


def aggregating_by(extractor, zero, sequence, combine, records):
    def start(accumulator):
        return accumulator if accumulator else copy.deepcopy(zero)

    first = grouping(extractor, lambda k, a, r: sequence(k, start(a), r), records)
    return grouping(lambda r: r["key"], lambda k, a, r: combine(k, start(a), r["value"]), first)


def gathering(records):
    gathered = []
    for record in records:
        if isinstance(record, Failed):
            yield record
        else:
            gathered.append(record)
    if gathered:
        yield gathered


def sorting(reverse, records):
    return flattening(lambda r: sorted(r, reverse=reverse), gathering(records))


def counting(records):
    return aggregating(0, lambda a, r: a + 1, lambda a, r: a + r, records)


def counting_by(extractor, records):
    return aggregating_by(extractor, 0, lambda k, a, r: a + 1, lambda k, a, r: a + r, records)


def distinguishing(records):
    sets = aggregating(set(), lambda a, r: a | {r}, lambda a, r: a | r, records)
    return flattening(list, sets)


def averaging(extractor, records):
    pairs = aggregating(
        (0, 0),
        lambda a, r: (a[0] + r, a[1] + 1),
        lambda a, r: (a[0] + r[0], a[1] + r[1]),
        mapping(extractor, records),
    )
    return mapping(lambda x: x[0] / x[1], pairs)


def repartitioning(extractor, records):
    for record in records:
        key = record if isinstance(record, Failed) else text_key(extractor, record)
        yield key if isinstance(key, Failed) else record


MODELS = {
    "map": mapping,
    "filter": filtering,
    "foreach": visiting,
    "flatmap": flattening,
    "accumulate": accumulating,
    "limit": limiting,
    "groupby": grouping,
    "localgroupby": grouping,
    "batchgroupby": batch_grouping,
    "repartition": repartitioning,
    "aggregate": aggregating,
    "aggregateby": aggregating_by,
    "sort": sorting,
    "count": counting,
    "avg": averaging,
    "countby": counting_by,
    "distinct": distinguishing,
    "collect": lambda records: records,
}


def expected(values, plan, stops=True, reads_on=False):
    """(results, names of errors) of a plan; only the reader of the initiator stops.

    With `reads_on` a limit that is full still asks for records and passes their errors.
    """
    stop = []
    records = reading(values, stop)
    for name, arguments in plan:
        arguments = list(map(eval, arguments))
        if name == "limit":
            records = limiting(*arguments, records, reads_on)
        else:
            records = MODELS[name](*arguments, records)
    results, errors = [], []
    for record in mapping(lambda x: "r" + repr(x), records):
        if isinstance(record, Failed):
            errors.append(str(record))
            if stops:
                stop.append(True)
        else:
            results.append(record)
    return results, errors


class Shards:
    """A cluster whose first shard is the initiator; `slots` are those of each."""

    def __init__(self, values, slots):
        self.records = [list(own) for own in values]
        self.slots = slots
        self.errors = []

    def run(self, plan):
        for name, arguments in plan:
            getattr(self, name, self.each(name))(*map(eval, arguments))
        self.collect()
        self.map(lambda x: "r" + repr(x))
        return self.records[0], self.errors

    def each(self, name):
        """A step that every shard does for itself."""

        def step(*arguments):
            for records in self.records:
                done = list(MODELS[name](*arguments, list(records)))
                self.errors += [str(r) for r in done if isinstance(r, Failed)]
                records[:] = [r for r in done if not isinstance(r, Failed)]

        return step

    def map(self, function):
        self.each("map")(function)

    def collect(self):
        for records in self.records[1:]:
            self.records[0] += records
            records.clear()

    def repartition(self, extractor):
        moved = [[] for _ in self.records]
        for record in [record for records in self.records for record in records]:
            key = text_key(extractor, record)
            if isinstance(key, Failed):
                self.errors.append(str(key))
            else:
                slot = key_slot(key.encode())
                owner = next(i for i, slots in enumerate(self.slots) if slot in slots)
                moved[owner].append(record)
        self.records = moved

    def groupby(self, extractor, reducer):
        self.repartition(extractor)
        self.each("groupby")(extractor, reducer)

    def batchgroupby(self, extractor, reducer):
        self.repartition(extractor)
        self.each("batchgroupby")(extractor, reducer)

    def aggregate(self, zero, sequence, combine):
        def start(accumulator):
            return accumulator if accumulator else copy.deepcopy(zero)

        self.each("accumulate")(lambda a, r: sequence(start(a), r))
        self.collect()
        self.each("accumulate")(lambda a, r: combine(start(a), r))

    def aggregateby(self, extractor, zero, sequence, combine):
        def start(accumulator):
            return accumulator if accumulator else copy.deepcopy(zero)

        self.each("groupby")(extractor, lambda k, a, r: sequence(k, start(a), r))
        self.groupby(lambda r: r["key"], lambda k, a, r: combine(k, start(a), r["value"]))

    def count(self):
        self.aggregate(0, lambda a, r: a + 1, lambda a, r: a + r)

    def countby(self, extractor):
        self.aggregateby(extractor, 0, lambda k, a, r: a + 1, lambda k, a, r: a + r)

    def avg(self, extractor):
        self.map(extractor)
        self.aggregate(
            (0, 0),
            lambda a, r: (a[0] + r, a[1] + 1),
            lambda a, r: (a[0] + r[0], a[1] + r[1]),
        )
        self.map(lambda x: x[0] / x[1])

    def sort(self, reverse):
        self.aggregate([], lambda a, r: [*a, r], lambda a, r: a + r)
        self.each("flatmap")(lambda r: sorted(r, reverse=reverse))

    def distinct(self):
        self.aggregate(set(), lambda a, r: a | {r}, lambda a, r: a | r)
        self.each("flatmap")(list)
