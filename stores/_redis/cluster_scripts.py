"""What nodes of a cluster do in the engine, in one step each: scripts, as in `scripts.py`.

They take keys of one session each, and lists of all. What ends work, or tells somebody of it, is
done where the engine has no memory left, too.
"""

from __future__ import annotations

from typing import Final

from .scripts import script

__all__ = [
    "CHARGE",
    "CLAIM",
    "CLUSTER_SCRIPTS",
    "FINISH_ITEM",
    "FOLLOW",
    "GIVE",
    "LIST_ORPHANS",
    "POST",
    "PUBLISH",
    "RELEASE",
    "REPORT",
    "REST",
    "SEND",
]

#: (lease, inbox) node, how long, in milliseconds, whether the inbox is wanted → the node that has
#: it, and if it is this one the items of the inbox.
CLAIM: Final = script("""#!lua flags=allow-oom
local node, lasts, wants = unpack(ARGV)
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= node then return {holder} end
redis.call('SET', KEYS[1], node, 'PX', lasts)
return {node, wants == '1' and redis.call('XRANGE', KEYS[2], '-', '+') or {}}
""")

#: (lease) node → nothing.
RELEASE: Final = script("""#!lua flags=allow-oom
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
""")

#: (lease, mail) node, whose it is then, how long that lasts, how long mail stays, in milliseconds,
#: payload → nothing.
GIVE: Final = script("""#!lua flags=allow-oom
local node, to, lasts, stays, payload = unpack(ARGV)
if redis.call('GET', KEYS[1]) ~= node then return end
redis.call('SET', KEYS[1], to, 'PX', lasts)
redis.call('XADD', KEYS[2], '*', 'p', payload)
redis.call('PEXPIRE', KEYS[2], stays)
""")

#: (open, inboxes, damaged) prefix → the ids of those that no node has, and that somebody has to see
#: to and can.
LIST_ORPHANS: Final = script("""
local found = {}
for _, id in ipairs(redis.call('SUNION', KEYS[1], KEYS[2])) do
  if redis.call('EXISTS', ARGV[1] .. ':{' .. id .. '}:lease') == 0
     and redis.call('HEXISTS', KEYS[3], id) == 0 then found[#found + 1] = id end
end
return found
""")

#: (lease, inbox, inboxes) prefix, id, how long mail stays, in milliseconds, payload → the node that
#: has it, nothing if none has.
SEND: Final = script("""#!lua flags=allow-oom
local prefix, id, stays, payload = unpack(ARGV)
local holder = redis.call('GET', KEYS[1])
if not holder then return false end
local item = redis.call('XADD', KEYS[2], '*', 'p', payload)
redis.call('PERSIST', KEYS[2])
redis.call('SADD', KEYS[3], id)
local mail = prefix .. ':mail:' .. holder
redis.call('XADD', mail, '*', 'p', payload, 's', id, 'i', item)
redis.call('PEXPIRE', mail, stays)
return holder
""")

#: (inbox, inboxes) id, item, how long an inbox stays in which nothing is, in milliseconds → nothing.
#: It may be of no session, which deletes it, and stays for a while so that no id comes again.
FINISH_ITEM: Final = script("""#!lua flags=allow-oom
redis.call('XDEL', KEYS[1], ARGV[2])
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('SREM', KEYS[2], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
""")

#: (mail) how long it stays, in milliseconds, payload → nothing.
POST: Final = script("""#!lua flags=allow-oom
redis.call('XADD', KEYS[1], '*', 'p', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
""")

#: (debts) what none grows beyond, and by how much each grows, in milliseconds → what each is. It is
#: the time for which its key stays.
CHARGE: Final = script("""
local most = tonumber(ARGV[1])
local found = {}
for i, key in ipairs(KEYS) do
  local debt, more = math.max(0, redis.call('PTTL', key)), tonumber(ARGV[i + 1])
  if more > 0 then
    debt = math.min(most, debt + more)
    redis.call('SET', key, '', 'PX', string.format('%.0f', debt))
  end
  found[i] = debt
end
return found
""")

#: (nodes) prefix, node, how long it lasts, in milliseconds, what the node has to do, nothing to
#: take that back → all nodes that have said it, with what each has.
REPORT: Final = script("""#!lua flags=allow-oom
local prefix, node, lasts, load = unpack(ARGV)
if load == '' then
  redis.call('DEL', prefix .. ':load:' .. node)
else
  redis.call('SET', prefix .. ':load:' .. node, load, 'PX', lasts)
  redis.call('SADD', KEYS[1], node)
end
local found = {}
for _, name in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local said = redis.call('GET', prefix .. ':load:' .. name)
  if said then found[#found + 1] = {name, said} else redis.call('SREM', KEYS[1], name) end
end
return found
""")

#: (texts, meta) payloads → nothing. What is shown of a session that was deleted would stay.
PUBLISH: Final = script("""
if redis.call('EXISTS', KEYS[2]) == 0 then return end
for _, payload in ipairs(ARGV) do redis.call('XADD', KEYS[1], '*', 'p', payload) end
redis.call('PERSIST', KEYS[1])
""")

#: (texts) how long they stay, in milliseconds → nothing. Whoever follows has seen those before.
#: What time it is the last of them says, since a user may not be allowed to ask.
REST: Final = script("""#!lua flags=allow-oom
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then return end
local before = tonumber(string.match(last[1], '^%d+')) - tonumber(ARGV[1])
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f', math.max(0, before)))
redis.call('PEXPIRE', KEYS[1], 2 * tonumber(ARGV[1]))
""")

#: (log, meta, terms, texts, mail) after, how long mail stays, in milliseconds → the last seq,
#: nothing if there is no such session, the id of the entry at that seq, the log after it, and the
#: texts. The mail wakes whoever reads for that node.
FOLLOW: Final = script("""#!lua flags=allow-oom
local after, stays = tonumber(ARGV[1]), ARGV[2]
local term = after > 0 and redis.call('ZREVRANGEBYSCORE', KEYS[3], after, '-inf',
                                      'LIMIT', 0, 1)[1] or '0'
local at = term .. '-' .. string.format('%.0f', after)
redis.call('XADD', KEYS[5], '*', 'w', '1')
redis.call('PEXPIRE', KEYS[5], stays)
return {redis.call('HGET', KEYS[2], 'seq'), at, redis.call('XRANGE', KEYS[1], '(' .. at, '+'),
        redis.call('XRANGE', KEYS[4], '-', '+')}
""")

#: All, for the engine to know before they are called.
CLUSTER_SCRIPTS: Final = (
    CLAIM,
    RELEASE,
    GIVE,
    LIST_ORPHANS,
    SEND,
    FINISH_ITEM,
    POST,
    CHARGE,
    REPORT,
    PUBLISH,
    REST,
    FOLLOW,
)
