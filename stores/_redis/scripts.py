"""What the engine does in one step: scripts that run in it, and the keys that they use.

Of a session:

    PREFIX:{ID}:log     stream: an entry at its position, "l" its line, "w" who wrote it
    PREFIX:{ID}:meta    hash: who may write, in which term, the last seq, and what lists show
    PREFIX:{ID}:terms   sorted set: each term of the log, by the seq that it begins with
    PREFIX:{ID}:notes   list: lines
    PREFIX:{ID}:lease   the node that has it; it passes away by itself
    PREFIX:{ID}:inbox   stream: what nodes have for the one that has it
    PREFIX:{ID}:texts   stream: what its node shows beside the log
    PREFIX:{ID}:grave   the meta of one that was deleted: who follows it reads on, for a while

Of all sessions together, derived from those:

    PREFIX:store        hash: the version of this layout, and an id that a lost engine lacks
    PREFIX:all          sorted set: ACTIVITY~ID, so in the order of activity
    PREFIX:by-owner:OWNER, PREFIX:by-status:STATUS:OWNER      the same of some of them
    PREFIX:open         set: ids of those with open work
    PREFIX:created      hash: OWNER NUL KEY → the id that was created so
    PREFIX:damaged      hash: id → what is wrong with it
    PREFIX:bytes        how large all logs are together
    PREFIX:inboxes      set: ids of those with something in the inbox
    PREFIX:mail:NODE    stream: what a node is told
    PREFIX:nodes        set: nodes that have said what they have to do
    PREFIX:load:NODE    what that is, for as long as it holds
    PREFIX:debt:OWNER   for as long as what the owner has used of its rate counts
    PREFIX:never        there is none (`guard`)

In a Redis Cluster PREFIX is in braces, and so the tag of all of them: a script needs those of all
sessions too, and what it needs has to be in one slot.

The stream is the fence: a term is taken by setting the stream's last id to the new term with the
last seq. From then on the engine refuses each id of an earlier term as equal or smaller, whatever
else a script looks at, and no entry stands there that nobody has written.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final

import attrs

__all__ = [
    "APPEND",
    "DELETE",
    "ESTABLISH",
    "LIST",
    "LIST_OPEN_WORK",
    "MARK",
    "NOTE",
    "OPEN",
    "PRUNE",
    "READ",
    "RECALL",
    "SCRIPTS",
    "TOUCH",
    "VERSION",
    "Script",
    "guard",
    "script",
    "session_key",
    "session_keys",
]

#: Of the layout of the keys.
VERSION: Final = 1
#: Where the engine is another than the one that the last term was taken of (it was started anew,
#: or a replica took its place), terms and entries may be lost that somebody has seen. No position
#: of theirs is given again: so many terms are left free, times a number that is the engine's own,
#: since the next one may have lost that this one was ever there.
LEAP: Final = 1000
#: Entries may be megabytes, and the engine does nothing else while it copies them: a step of a read
#: takes no more behind so many bytes, and looks at that with each so many entries.
READ_BYTES: Final = 4 * 1024 * 1024
READ_COUNT: Final = 10


@attrs.frozen
class Script:
    """One of them.

    Attributes:
        text: In Lua.
        sha: What the engine calls it.
    """

    text: str
    sha: bytes

    def call(self, keys: tuple[bytes, ...], *arguments: object) -> tuple[object, ...]:
        """Make the command that runs it."""
        return (b"EVALSHA", self.sha, len(keys), *keys, *arguments)


def script(text: str) -> Script:
    """Make one, which stands in `SCRIPTS` or its like."""
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest().encode())


def guard(command: Sequence[Any], key_prefix: str) -> Sequence[Any]:
    """Name one more key of a script, which there never is.

    A slot goes to another engine key by key. Those that a script names are looked at before it
    runs, and it is refused where one is not there; without this one it would be stopped in its
    middle, at the first that it does not name and that has gone already.
    """
    if command[0] != b"EVALSHA":
        return command
    name, sha, count, *rest = command
    return (name, sha, count + 1, *rest[:count], f"{key_prefix}:never", *rest[count:])


def session_key(prefix: str, session_id: str, part: str) -> bytes:
    """Give one of a session's keys."""
    # What a client asks for may be no text that can be encoded.
    return f"{prefix}:{{{session_id}}}:{part}".encode(errors="surrogatepass")


def session_keys(prefix: str, session_id: str) -> tuple[bytes, bytes, bytes, bytes]:
    """Give those of what is kept: its log, meta, terms and notes."""
    begin = session_key(prefix, session_id, "")
    return begin + b"log", begin + b"meta", begin + b"terms", begin + b"notes"


_LISTS: Final = """
local function lists(prefix, owner, status)
  return {prefix .. ':all', prefix .. ':by-owner:' .. owner,
          prefix .. ':by-status:' .. status .. ':' .. owner}
end
local function unlist(prefix, owner, status, member)
  for _, name in ipairs(lists(prefix, owner, status)) do redis.call('ZREM', name, member) end
end
"""

_DELETE: Final = (
    _LISTS
    + """
local function delete(prefix, id, stays)
  local begin = prefix .. ':{' .. id .. '}:'
  local meta = redis.call('HMGET', begin .. 'meta', 'life', 'owner', 'status', 'member', 'bytes',
                          'key')
  if not meta[1] then return 0 end
  unlist(prefix, meta[2], meta[3], meta[4])
  redis.call('SREM', prefix .. ':open', id)
  redis.call('SREM', prefix .. ':inboxes', id)
  redis.call('HDEL', prefix .. ':damaged', id)
  redis.call('DECRBY', prefix .. ':bytes', meta[5])
  if meta[6] ~= '' then
    local field = meta[2] .. '\\0' .. meta[6]
    if redis.call('HGET', prefix .. ':created', field) == id then
      redis.call('HDEL', prefix .. ':created', field)
    end
  end
  redis.call('UNLINK', begin .. 'notes', begin .. 'inbox', begin .. 'lease')
  -- Whoever follows it reads to the end, and sees that it is one.
  redis.call('XADD', begin .. 'log', '*', 'end', '1')
  redis.call('RENAME', begin .. 'meta', begin .. 'grave')
  for _, part in ipairs({'log', 'terms', 'texts', 'grave'}) do
    redis.call('PEXPIRE', begin .. part, stays)
  end
  return 1
end
"""
)

#: (store) version, epoch → what stands there. Where it does nothing is written, so that an engine
#: without memory can be gone on with.
ESTABLISH: Final = script("""
local found = redis.call('HMGET', KEYS[1], 'version', 'epoch')
if found[1] and found[2] then return found end
redis.call('HSETNX', KEYS[1], 'version', ARGV[1])
redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2])
return redis.call('HMGET', KEYS[1], 'version', 'epoch')
""")

#: (anything) → nothing. It is a write, also where the engine has no memory left.
TOUCH: Final = script("""#!lua flags=allow-oom
redis.call('SET', KEYS[1], '1', 'PX', 1000)
""")

#: (log, meta, terms) prefix, id, epoch, holder, life, whether it creates, first seq, last seq,
#: last term, size, owner, status, activity, whether there is open work, created key, session,
#: engine, then id and line of each entry → what became of it.
APPEND: Final = script(
    _LISTS
    + """
local prefix, id, epoch, holder, life, creates = unpack(ARGV, 1, 6)
local first, last, term, size = unpack(ARGV, 7, 10)
local owner, status, activity, open, key, session, engine = unpack(ARGV, 11, 17)
if redis.call('HGET', prefix .. ':store', 'epoch') ~= epoch then return {'rewound'} end
local meta = redis.call('HMGET', KEYS[2], 'life', 'holder', 'term', 'seq', 'owner', 'status',
                        'member', 'key', 'open', 'bytes', 'last')
if not meta[1] then
  if creates == '0' then return {'gone'} end
  local known = key ~= '' and redis.call('HGET', prefix .. ':created', owner .. '\\0' .. key)
  if known and known ~= id then return {'created', known} end
  -- First what takes memory: an engine that has none left refuses that, and nothing behind a write.
  redis.call('HSET', KEYS[2], 'life', life, 'holder', holder, 'engine', engine)
  -- What is there is of a former life.
  local begin = prefix .. ':{' .. id .. '}:'
  redis.call('UNLINK', KEYS[1], KEYS[3], begin .. 'grave', begin .. 'texts')
elseif meta[1] ~= life then
  return {creates == '1' and 'exists' or 'gone'}
end
local seq = tonumber(meta[4] or '0')
if seq >= tonumber(first) then
  -- Done before, and not heard of, if it is the same of the same writer.
  for i = 18, #ARGV, 2 do
    local found = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
    if not found or found[2][2] ~= ARGV[i + 1] or found[2][4] ~= holder then
      return {'fenced', meta[3]}
    end
  end
  return {'done'}
end
if meta[2] and meta[2] ~= holder then return {'fenced', meta[3]} end
if seq ~= tonumber(first) - 1 then return {'behind', meta[4] or '0'} end
local known = meta[11]
for i = 18, #ARGV, 2 do
  local added = redis.pcall('XADD', KEYS[1], ARGV[i], 'l', ARGV[i + 1], 'w', holder)
  if type(added) == 'table' and added.err then
    if i == 18 and string.find(added.err, 'equal or smaller', 1, true) then
      return {meta[1] and 'fenced' or 'exists', meta[3] or '?'}
    end
    return added
  end
  local its, at = string.match(ARGV[i], '^(%d+)-(%d+)$')
  if its ~= known then
    redis.call('ZADD', KEYS[3], 'NX', at, its)
    known = its
  end
end
local member = activity .. '~' .. id
if meta[5] ~= owner or meta[6] ~= status or meta[7] ~= member then
  if meta[7] then unlist(prefix, meta[5], meta[6], meta[7]) end
  for _, name in ipairs(lists(prefix, owner, status)) do redis.call('ZADD', name, 0, member) end
end
if (meta[9] or '0') ~= open then
  redis.call(open == '1' and 'SADD' or 'SREM', prefix .. ':open', id)
end
if key ~= '' and meta[8] ~= key then
  redis.call('HSET', prefix .. ':created', owner .. '\\0' .. key, id)
end
local bytes = string.format('%.0f', tonumber(meta[10] or '0') + tonumber(size))
redis.call('HSET', KEYS[2], 'seq', last, 'owner', owner, 'status', status, 'member', member,
           'open', open, 'key', key, 'session', session, 'term', term, 'bytes', bytes,
           'last', known)
redis.call('INCRBY', prefix .. ':bytes', size)
return {'ok'}
"""
)

#: (log, meta) holder, engine, and what the holder knows: life, term, seq → nothing if there is no
#: such session; else its life, term and last seq, whether the term is new, and what is wrong. The
#: flags have an engine that takes no writes now refuse all of it: that is nothing wrong with a log.
OPEN: Final = script(f"""#!lua flags=allow-oom
local holder, engine, known_life, known_term, known_seq = unpack(ARGV)
local life, owner, term, seq, its = unpack(redis.call('HMGET', KEYS[2], 'life', 'holder', 'term',
                                                      'seq', 'engine'))
if not life then return false end
local is_known = life == known_life
local is_lost = is_known and (tonumber(seq) < tonumber(known_seq)
                              or tonumber(term) < tonumber(known_term))
if owner == holder and not is_lost then return {{life, term, seq, 0}} end
local next = tonumber(term)
if is_known and tonumber(known_term) > next then next = tonumber(known_term) end
local leap = {LEAP} * (1 + (tonumber(string.sub(engine, 1, 6), 16) or 0))
next = string.format('%.0f', next + (its == engine and 1 or leap))
local set = redis.pcall('XSETID', KEYS[1], next .. '-' .. seq)
if type(set) == 'table' and set.err then return {{life, term, seq, 0, set.err}} end
redis.call('HSET', KEYS[2], 'holder', holder, 'term', next, 'engine', engine)
return {{life, next, seq, 1}}
""")

#: (meta, notes) holder, life, whether it takes the place of those before, line → nothing.
NOTE: Final = script("""
local meta = redis.call('HMGET', KEYS[1], 'holder', 'life')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] then return end
if ARGV[3] == '1' then redis.call('DEL', KEYS[2]) end
redis.call('RPUSH', KEYS[2], ARGV[4])
""")

#: (log, meta, terms) after, limit → the last seq, lines, and whether there are more which are for
#: another step. For a grave in place of the meta, too.
READ: Final = script(f"""
local seq = redis.call('HGET', KEYS[2], 'seq')
if not seq then return false end
local lines, size = {{}}, 0
local after, left = tonumber(ARGV[1]), tonumber(ARGV[2])
local next = string.format('%.0f', after + 1)
local term = redis.call('ZREVRANGEBYSCORE', KEYS[3], next, '-inf', 'LIMIT', 0, 1)[1]
local start = term and term .. '-' .. next
while start and left > 0 do
  if size > {READ_BYTES} then return {{seq, lines, 1}} end
  local count = math.min(left, {READ_COUNT})
  local found = redis.call('XRANGE', KEYS[1], start, '+', 'COUNT', count)
  for _, entry in ipairs(found) do
    if entry[2][1] == 'l' then
      lines[#lines + 1] = entry[2][2]
      size = size + #entry[2][2]
    end
  end
  start = #found == count and '(' .. found[count][1]
  left = left - count
end
return {{seq, lines, 0}}
""")

#: (meta, notes) → the last seq, and lines.
RECALL: Final = script("""
local seq = redis.call('HGET', KEYS[1], 'seq')
if not seq then return false end
return {seq, redis.call('LRANGE', KEYS[2], 0, -1)}
""")

#: (a list) prefix, the end of the range, limit → member and summary of each.
LIST: Final = script("""
local found = {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', KEYS[1], ARGV[2], '-',
                                   'LIMIT', 0, ARGV[3])) do
  local id = string.match(member, '^[^~]*~(.*)$')
  found[#found + 1] = member
  found[#found + 1] = redis.call('HMGET', ARGV[1] .. ':{' .. id .. '}:meta', 'seq', 'session',
                                 'owner', 'key', 'open')
end
return found
""")

#: (open) prefix, node → the ids of those that no other node has.
LIST_OPEN_WORK: Final = script("""
local found = {}
for _, id in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local node = redis.call('GET', ARGV[1] .. ':{' .. id .. '}:lease')
  if not node or node == ARGV[2] then found[#found + 1] = id end
end
table.sort(found)
return found
""")

#: (damaged, meta) id, what is wrong, nothing if it is whole again → nothing.
MARK: Final = script("""
if ARGV[2] == '' then
  redis.call('HDEL', KEYS[1], ARGV[1])
elseif redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
end
""")

#: (meta, grave) prefix, id, how long its grave stays, in milliseconds, whether it was asked before
#: without an answer → whether there was one.
DELETE: Final = script(
    _DELETE
    + """
local done = delete(ARGV[1], ARGV[2], ARGV[3])
return done == 0 and ARGV[4] == '1' and redis.call('EXISTS', KEYS[2]) or done
"""
)

#: (all) prefix, node, how long a grave stays, most, then keep, older than, bytes to keep, each
#: nothing if it does not matter; then the ids to protect → the ids of those that are gone. Those
#: that another node has are protected.
PRUNE: Final = script(
    _DELETE
    + """
local prefix, node, stays, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local keep, older, keep_bytes = tonumber(ARGV[5]), ARGV[6], tonumber(ARGV[7])
local protected = {}
for i = 8, #ARGV do protected[ARGV[i]] = true end
local count = redis.call('ZCARD', KEYS[1])
local size = tonumber(redis.call('GET', prefix .. ':bytes') or '0')
local gone, start = {}, 0
while true do
  local members = redis.call('ZRANGEBYLEX', KEYS[1], '-', '+', 'LIMIT', start, most)
  for _, member in ipairs(members) do
    local activity, id = string.match(member, '^([^~]*)~(.*)$')
    if #gone == most or not ((keep and count > keep) or (keep_bytes and size > keep_bytes)
                             or (older ~= '' and activity < older)) then return gone end
    local begin = prefix .. ':{' .. id .. '}:'
    if protected[id] or (redis.call('GET', begin .. 'lease') or node) ~= node then
      start = start + 1
    else
      local length = redis.call('HGET', begin .. 'meta', 'bytes')
      delete(prefix, id, stays)
      gone[#gone + 1] = id
      count = count - 1
      size = size - tonumber(length or '0')
    end
  end
  if #members < most then return gone end
end
"""
)

#: All, for the engine to know before they are called.
SCRIPTS: Final = (
    ESTABLISH,
    TOUCH,
    APPEND,
    OPEN,
    NOTE,
    READ,
    RECALL,
    LIST,
    LIST_OPEN_WORK,
    MARK,
    DELETE,
    PRUNE,
)
