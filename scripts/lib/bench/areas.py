"""Owns what a callgrind file tells of where instructions went, by parts of the source that a person can do something about.
Pure: lines in, counts out."""

import collections
import re

# The first that matches the name of the function that was compiled, with what was inlined into it, names its area.
AREAS = [
    (r"neap::proxy", "neap: proxy"),
    (r"neap::router", "neap: router"),
    (r"neap::app_server", "neap: app_server"),
    (r"neap::domain", "neap: domain"),
    (r"neap::", "neap: other"),
    (r"httparse", "httparse"),
    (r"tokio|mio::|futures|actix", "tokio, mio, actix"),
    (r"core::fmt|alloc::fmt|fmt::", "std: fmt"),
    (r"core::hash|hashbrown|Sip", "std: hashing"),
    (r"core::str|from_utf8|core::slice|core::iter|core::num", "std: text, slices, iterators"),
    (r"std::time|clock|vdso", "the clock"),
    (r"malloc|_int_free|cfree|realloc|__rust_alloc|__rust_dealloc|alloc::raw_vec|unlink_chunk", "memory: malloc, free, growth"),
    (r"memmove|memcpy|memset|memcmp|memchr|strlen", "memory: copy, compare"),
    (r"^(__)?(epoll_wait|recv|send|write|writev|read|sendto|recvfrom|syscall)|rustix|socket2", "system calls, this side of them"),
    (r"arc_swap|rand|chacha|ulid|bytes::|matchit", "other crates"),
    (r"^core::|^std::|^alloc::|^<", "std: other"),
]
COST = re.compile(r"^(?:\+\d+|-\d+|\*|\d+) (\d+)$")
FUNCTION = re.compile(r"^c?fn=(\(\d+\))(?: (.*))?$")


def area(function):
    return next((name for pattern, name in AREAS if re.search(pattern, function)), "the rest")


def counts(lines):
    """Instructions by area."""
    names, found, at, called = {}, collections.Counter(), "", False
    for line in lines:
        if function := FUNCTION.match(line):
            name = names[function[1]] = function[2] or names.get(function[1], "")
            at = at if line.startswith("c") else area(name)
        elif line.startswith("calls="):
            # The next line is what the callee cost, which is told where it is spent.
            called = True
        elif cost := COST.match(line):
            if not called:
                found[at] += int(cost[1])
            called = False
    return found


def table(found, requests):
    total = sum(found.values())
    rows = [f"{count / requests:9,.0f}  {count / total:5.1%}  {name}" for name, count in found.most_common()]
    return "\n".join(rows) + "\n"
