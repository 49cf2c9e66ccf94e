"""The catalogue. M numbers are those of safety §10; P numbers are rules of protocol.md that somebody would leave out."""

from tests.planted.bug import Bug, Edit

INBOX = "tests/store/test_inbox.py"
PUSH = "tests/store/test_push.py"
REARM = "tests/store/test_rearm.py"
RACES = "tests/store/test_races.py"
PAGES = "tests/store/test_pages.py"
NUMBERING = "tests/store/test_numbering.py"
REGISTRY = "tests/store/test_registry.py"
RULES = "tests/unit/test_inbox_rules.py"
PUSH_RULES = "tests/unit/test_push_rules.py"
LIMITS = "tests/unit/test_limits.py"
FCM = "tests/providers/test_fcm_meets_the_sandbox.py"
SIMULATION = "tests/simulation"


def one(file: str, old: str, new: str) -> tuple[Edit, ...]:
    return (Edit(file, old, new),)


BUGS = (
    Bug(
        "M01 answer before commit",
        "202 for what a crash then took away",
        one(
            "relay/store/sqlite_commit.py",
            "        _commit(conn)\n    except BaseException:",
            "        if type(jobs[0].item).__name__ == 'Send':\n"
            "            import time\n"
            "            from relay.store.engine import settle_futures\n"
            "            jobs[0].future.get_loop().call_soon_threadsafe(settle_futures, outcomes)\n"
            "            time.sleep(0.05)\n"
            "        _commit(conn)\n    except BaseException:",
        ),
        (
            "tests/faults/power_cut/test_io_errors.py"
            "::test_after_an_error_of_the_disk_nothing_is_taken_and_a_restart_finds_what_was",
            "tests/faults/test_kill.py",
        ),
    ),
    Bug(
        "M02 synchronous=NORMAL",
        "acknowledged messages lost at power loss",
        one("relay/store/sqlite_file.py", '"synchronous": 2,', '"synchronous": 1,'),
        ("tests/store/test_sqlite_start.py::test_every_connection_has_the_page_s_settings",),
    ),
    Bug(
        "M03 a full queue that answers 202",
        "what found no room was logged, and the sender forgot it",
        one(
            "relay/inbox/service.py",
            "        accepted: Accepted = await self.engine.write_batched("
            "self._accept, send, is_send=True, size=send.stored_bytes)\n",
            "        from relay.errors import Unavailable\n\n"
            "        try:\n"
            "            accepted = await self.engine.write_batched(self._accept, send, is_send=True, size=1000)\n"
            "        except Unavailable:\n"
            "            now_ms = self.clock.now_ms()\n"
            "            return Accepted(\n"
            "                message_id=send.message_id, accepted_ms=now_ms, expires_ms=now_ms + 1000, recipients=()\n"
            "            )\n",
        ),
        ("tests/api/test_overload.py::test_ovl_1_a_writers_queue_that_is_full_refuses_and_what_it_took_is_kept",),
    ),
    Bug(
        "M05 key looked up before it is written",
        "two equal sends at once became two messages",
        one(
            "relay/inbox/repeats.py",
            "        elif row is not None:\n            before[index] = row.message_id\n",
            "        elif False:\n            before[index] = row.message_id\n",
        ),
        (f"{INBOX}::test_a_repeat_long_after_is_answered_as_the_first_time", RACES),
    ),
    Bug(
        "M06 numbers of all inboxes from one counter",
        "a reader's cursor jumped over a number that committed later, or never",
        (
            Edit(
                "relay/inbox/locked.py",
                "SCAN, SCAN_MAX = 2, 100",
                "NUMBERS = iter(range(1, 10**9))\nSCAN, SCAN_MAX = 2, 100",
            ),
            Edit(
                "relay/inbox/locked.py",
                "        self.head_seq += 1\n",
                "        self.head_seq = max(self.head_seq + 1, next(NUMBERS))\n",
            ),
        ),
        (NUMBERING, f"{INBOX}::test_64_equal_sends_are_one_message_and_63_replays"),
    ),
    Bug(
        "M07 the position is the second",
        "of two messages within a second a reader saw one",
        one(
            "relay/inbox/locked.py",
            "        self.head_seq += 1\n",
            "        self.head_seq = max(self.head_seq, self.now_ms // 1000)\n",
        ),
        (NUMBERING, INBOX),
    ),
    Bug(
        "M08 a page that starts after what it was asked for",
        "live frames moved the cursor over a gap",
        one(
            "relay/inbox/page.py",
            "entry_pages.page_rows(conn, snap.inbox.key, after=cover.position, upto=bound, limit=limit)",
            "entry_pages.page_rows(conn, snap.inbox.key, after=cover.position + 1, upto=bound, limit=limit)",
        ),
        (f"{PAGES}::test_entries_and_gaps_of_every_page_are_exactly_its_range", INBOX),
    ),
    Bug(
        "M09 the client keeps its cursor in memory",
        "after a restart it began where it had begun before, or nowhere",
        (
            Edit(
                "relay/client/cache.py",
                '            db.execute("UPDATE store SET seq = ?, cursor = ?", (page.to_seq, page.cursor))\n',
                "            self._at = outcome.position\n",
            ),
            Edit(
                "relay/client/cache.py",
                '        return Position(*self._one("SELECT epoch, seq, cursor FROM store"))',
                '        return getattr(self, "_at", None) or Position(*self._one("SELECT epoch, seq, cursor FROM store"))',
            ),
        ),
        ("tests/unit/test_client_cache.py::test_the_cursor_is_where_the_messages_are_also_after_a_restart",),
    ),
    Bug(
        "M10 epoch not in the cursor's judgement",
        "after a restore a cursor of the old numbering was believed",
        one("relay/inbox/page.py", "    if cursor.epoch8 != snap.epoch8:", "    if False:"),
        (f"{PAGES}::test_8_5_another_epoch", INBOX, SIMULATION),
    ),
    Bug(
        "M11 a vendor's yes ends the delivery",
        "accepted by the vendor, never shown, never repeated",
        one(
            "relay/push/settling.py",
            "    locked.put(replace(device, pushed_seq=max(device.pushed_seq, min(upto_seq, locked.head_seq))))",
            "    locked.put(replace(device, acked_seq=one.attempt.send.upto_seq, acked_high=one.attempt.send.upto_seq, "
            "pushed_seq=one.attempt.send.upto_seq))",
        ),
        (f"{PUSH}::test_accepted_means_told_and_the_knocks_follow", REARM),
    ),
    Bug(
        "M12 too many requests is final",
        "a vendor's 429 dropped pushes",
        one("relay/push/rules.py", "    Verdict.RETRY: Then.AGAIN,", "    Verdict.RETRY: Then.GIVE_UP,"),
        (f"{PUSH_RULES}::test_the_table_says_what_follows", PUSH),
    ),
    Bug(
        "M13 token removed for a server error",
        "a vendor's outage emptied the token table",
        one(
            "providers/fcm.py",
            "    if status >= 500 or status < 400:\n        outcome = by_status",
            "    if status >= 500:\n        return Outcome(verdict=Verdict.TOKEN_DEAD, scope=Scope.TOKEN)\n"
            "    if status < 400:\n        outcome = by_status",
        ),
        (f"{FCM}::test_every_way_to_fail_is_taken_as_the_sheet_wants_it",),
    ),
    Bug(
        "M14 retries in two layers",
        "a vendor that asked for a pause got twice the calls",
        one(
            "relay/push/calls.py",
            "                    return await account.provider.send(push)\n",
            "                    outcome = await account.provider.send(push)\n"
            "                    for _ in range(3):\n"
            "                        if outcome.verdict is not Verdict.RETRY:\n"
            "                            break\n"
            "                        await asyncio.sleep(4)\n"
            "                        outcome = await account.provider.send(push)\n"
            "                    return outcome\n",
        ),
        ("tests/faults/test_wire_vendors.py::test_flt_3_while_a_vendor_asks_to_wait_it_gets_no_request",),
    ),
    Bug(
        "M15 claims without a fencing token",
        "a worker that had slept overwrote its successor's result",
        one(
            "relay/push/settling.py",
            "        if locked is None or job is None or not one.attempt.holds(job):",
            "        if locked is None or job is None:",
        ),
        (f"{PUSH}::test_a_lost_worker_s_job_is_due_again_and_its_late_word_changes_nothing", RACES),
    ),
    Bug(
        "M16 the look for what is due begins with what is taken",
        "ten thousand claimed rows in front of one hid it for ever",
        one(
            "relay/store/queue.py",
            "    return select(j.app_id, j.user_id).where(*due, free).order_by(j.due_ms)",
            "    del free\n    return select(j.app_id, j.user_id).where(*due).order_by(j.due_ms)",
        ),
        ("tests/store/test_behind_many.py",),
    ),
    Bug(
        "M17 an ack and its report in two transactions",
        "acked, but the sender never heard",
        (
            Edit(
                "relay/inbox/ack.py",
                "    flush(conn, now_ms, users.values())\n    return [answers",
                "    ack.reports = [event for user in users.values() for event in user.events]\n"
                "    for user in users.values():\n"
                "        user.events.clear()\n"
                "    flush(conn, now_ms, users.values())\n    return [answers",
            ),
            Edit(
                "relay/inbox/service.py",
                "            answer: AckAnswer = await self.engine.write_batched(self._ack, request)\n",
                "            from relay.store.events import emit\n\n"
                "            answer: AckAnswer = await self.engine.write_batched(self._ack, request)\n"
                "            await self.engine.write(lambda conn, now_ms: emit(conn, now_ms, ack.reports))\n",
            ),
        ),
        ("tests/store/test_one_transaction.py::test_k14_an_end_and_its_report_are_one_commit",),
    ),
    Bug(
        "M18 an ack passes what was never handed out",
        "a cursor from the future deleted what was undelivered",
        one(
            "relay/inbox/ack.py",
            "    if request.upto is not None and request.upto > locked.head_seq:",
            "    if False:",
        ),
        (f"{INBOX}::test_nothing_is_acked_beyond_what_there_is", REARM, "tests/api/test_corpus_sockets.py"),
    ),
    Bug(
        "M19 a request's end interrupts the driver",
        "a client that went took the transaction of others with it",
        one(
            "relay/store/sqlite.py",
            "        return await job.future\n",
            "        try:\n"
            "            return await job.future\n"
            "        except asyncio.CancelledError:\n"
            "            self._writer_conn.connection.dbapi_connection.interrupt()\n"
            "            raise\n",
        ),
        ("tests/store/test_one_transaction.py",),
    ),
    Bug(
        "M20 a push is counted as lost when it has been handled",
        "what killed the process killed it for ever",
        one(
            "relay/push/planning.py",
            "            lost.append((key, job.claim_token, job.lost + 1))",
            "            lost.append((key, job.claim_token, job.lost))",
        ),
        ("tests/store/test_poison.py",),
    ),
    Bug(
        "M21 the oldest goes when the inbox is full",
        "a full queue dropped in silence",
        one(
            "relay/inbox/delivering.py",
            "            elif not self._has_room(locked, send):",
            "            elif False:",
        ),
        (f"{INBOX}::test_a_full_inbox_refuses_the_new_and_keeps_the_old", "tests/api/test_corpus_send.py"),
    ),
    Bug(
        "M23 addresses are not looked at when it connects",
        "a webhook's name changed its mind and reached the inside",
        one(
            "providers/guard.py",
            "    if any(plain in net for net in also):\n        return True\n    if isinstance(plain, IPv4Address):",
            "    return any(plain in net for net in also)\n    if isinstance(plain, IPv4Address):",
        ),
        ("tests/providers/test_guard.py::test_denied",),
    ),
    Bug(
        "M24 the signature covers something else",
        "signatures over re-serialised JSON never verified",
        one(
            "relay/webhooks/signing.py",
            "        scheme, raw = Scheme.HMAC, hmac.digest(key, content, hashlib.sha256)",
            "        scheme, raw = Scheme.HMAC, hmac.digest(key, content + b' ', hashlib.sha256)",
        ),
        ("tests/unit/test_webhook_signing.py::test_signatures_are_those_of_the_vector",),
    ),
    Bug(
        "M25 messages are looked up without their app",
        "one tenant read another's message by its id",
        one(
            "relay/store/messages.py",
            'return select(message).where(m.app_id == bindparam("app"), in_list(m.message_id, "ids", sqlite=sqlite))',
            'return select(message).where(in_list(m.message_id, "ids", sqlite=sqlite), bindparam("app") != "")',
        ),
        (
            "tests/api/test_isolation_matrix.py::test_another_apps_ids_are_as_ids_that_never_were",
            "tests/api/test_corpus_send.py",
        ),
    ),
    Bug(
        "M25b a request whose app the store is not told",
        "PostgreSQL showed every tenant's rows, for whatever statement forgot its own",
        one(
            "relay/api/routes.py",
            "        task_is_for(principal.app_id)\n        return printed(await handler(call))",
            "        return printed(await handler(call))",
        ),
        ("tests/e2e/test_whose_rows.py::test_what_a_request_asks_for_is_its_callers_app",),
    ),
    Bug(
        "M26 a key is made up when there is none",
        "after a restart nothing that was sealed could be opened",
        one(
            "relay/keys.py",
            "        return cls.parse(_read(path), rng, origin=str(path))",
            "        if not path.exists():\n"
            "            return cls([(1, os.urandom(KEY_BYTES))], rng or system_rng())\n"
            "        return cls.parse(_read(path), rng, origin=str(path))",
        ),
        ("tests/unit/test_keys.py::test_a_missing_file_is_not_made_up",),
    ),
    Bug(
        "M27 the wall clock is believed at once",
        "a clock that jumped expired everything",
        one("relay/clock.py", "STEP_MS_MAX = 60_000", "STEP_MS_MAX = 10**15"),
        ("tests/unit/test_clock.py::test_a_jump_is_not_believed_before_it_has_lasted_15_minutes",),
    ),
    Bug(
        "M28 a store that was set back keeps its epoch",
        "numbers were handed out twice with other contents",
        one(
            "relay/store/meta.py", "def behind(", "def behind(*_: object) -> bool:\n    return False\n\n\ndef _behind("
        ),
        (
            "tests/store/test_rollback.py::test_a_store_behind_its_witness_begins_a_new_epoch_and_tells_the_backend",
            SIMULATION,
        ),
    ),
    Bug(
        "M29 a socket's buffer without a bound",
        "one client that did not read took the relay's memory",
        one(
            "relay/realtime/window.py",
            "        if self._entries and (entries <= 0 or size <= 0):",
            "        if False:",
        ),
        ("tests/unit/test_window.py", "tests/api/test_corpus_sockets.py"),
    ),
    Bug(
        "M30 the floor rises over open deliveries",
        "a retention job deleted what a device had not read",
        one(
            "relay/inbox/ending.py",
            "        and all(d.acked_seq >= entry.seq or ledger.holds(entry, d) for d in concerned)\n",
            "",
        ),
        (f"{REGISTRY}::test_the_floor_waits_for_every_active_device_and_the_replay_window", INBOX),
    ),
    Bug(
        "P1 waking waits for presence",
        "a message accepted while its device went offline was never pushed",
        one(
            "relay/inbox/delivering.py",
            "            if not device.has_address or not visibility.in_scope(send.scope, device):",
            "            if device.online or not device.has_address or not visibility.in_scope(send.scope, device):",
        ),
        (f"{REARM}::test_whatever_happens_a_device_that_lacks_something_is_told_in_time", RACES, INBOX),
    ),
    Bug(
        "P2 a device that goes offline is not looked at",
        "the other half of the same race",
        one(
            "relay/inbox/push_due.py",
            "    if outstanding.untold_ms is not None:\n        if not device.has_address:",
            "    if outstanding.untold_ms is not None and device.online:\n        if not device.has_address:",
        ),
        (f"{RULES}::test_when_a_job_is_due", REARM),
    ),
    Bug(
        "P3 handshake row 3: another epoch is believed",
        "2,000 of 10,000 model runs lose",
        one("relay/inbox/judging.py", "    if not evidence.epoch_same:\n        return resync(Reason.EPOCH)\n", ""),
        (f"{RULES}::test_each_row_of_the_verdict_table_makes_the_device_begin_again",),
    ),
    Bug(
        "P4 handshake row 4: another store is believed",
        "the store was wiped, the cursor survived in the keychain",
        one(
            "relay/inbox/judging.py",
            "    if not evidence.store_same:\n        return resync(Reason.STORE_CHANGED)\n",
            "",
        ),
        (f"{RULES}::test_each_row_of_the_verdict_table_makes_the_device_begin_again", INBOX),
    ),
    Bug(
        "P5 handshake row 6: a rolled-back store is believed",
        "a phone restored from its backup lost three days",
        one(
            "relay/inbox/judging.py",
            "    if evidence.session < device.conf_session:\n        return resync(Reason.STORE_ROLLED_BACK)\n",
            "",
        ),
        (f"{RULES}::test_each_row_of_the_verdict_table_makes_the_device_begin_again", INBOX),
    ),
    Bug(
        "P6 handshake row 8: acked numbers only grow",
        "2,883 of 10,000 model runs lose",
        one(
            "relay/inbox/judging.py",
            "        acked_seq, rebase = max(evidence.seq, device.start_seq), True",
            "        acked_seq, rebase = device.acked_seq, False",
        ),
        (f"{RULES}::test_a_cursor_below_what_was_acked_is_a_rewind_without_a_reason", INBOX),
    ),
    Bug(
        "P7 the implied ack is judged by the new version",
        "1,755 of 10,000 model runs lose: a fallback counted as the full message",
        one(
            "relay/inbox/handshake.py",
            "        advance(locked.conn, locked.now_ms, [Step(locked, old, judgement.acked_seq)])",
            "        advance(locked.conn, locked.now_ms, [Step(locked, replace(old, schema=10**6), judgement.acked_seq)])",
        ),
        (
            f"{INBOX}::test_held_and_fallback_messages_come_in_full_after_the_upgrade",
            "tests/store/test_nacks.py",
            SIMULATION,
        ),
    ),
    Bug(
        "P8 fallbacks are not remembered",
        "after the upgrade the full message never came",
        one("relay/inbox/passage.py", '            self.hold.append((entry.seq, "fallback"))\n', "            pass\n"),
        (f"{INBOX}::test_held_and_fallback_messages_come_in_full_after_the_upgrade", SIMULATION),
    ),
    Bug(
        "P9 selective acks move the cursor",
        "what came by push was acked over what had not",
        one(
            "relay/inbox/ack.py",
            "        locked.put_acks(device.device_id, beyond)\n",
            "        device = replace(device, acked_seq=max(e.seq for e in newly))\n",
        ),
        (f"{INBOX}::test_selective_acks_never_move_the_cursor_and_are_told_once", RACES),
    ),
    Bug(
        "P10 the sender's own device is skipped for ever",
        "9,715 of 10,000 model runs lose the user's own messages after a wiped store",
        one(
            "relay/inbox/visibility.py",
            "sent_here = entry.origin_device == device.device_id and entry.origin_session == device.session",
            "sent_here = entry.origin_device == device.device_id",
        ),
        (f"{RULES}::test_how_a_device_sees_an_entry", INBOX),
    ),
    Bug(
        "P11 dead tokens are removed whoever says so",
        "a vendor's late word removed a token that had been registered again",
        one(
            "relay/push/dead_tokens.py",
            "    return current is not None and when_ms > current.registered_ms",
            "    return current is not None",
        ),
        (f"{PUSH}::test_a_dead_token_is_believed_only_for_what_was_registered_before", REGISTRY),
    ),
    Bug(
        "P12 no brake on dead tokens",
        "a wrong project id emptied the token table",
        one(
            "relay/push/limits.py",
            "        return dead >= BRAKE_DEAD_MIN and dead > BRAKE_SHARE * count",
            "        return False",
        ),
        (f"{LIMITS}::test_the_brake_holds_when_many_and_more_than_a_twentieth_died",),
    ),
    Bug(
        "P13 a newer session does not fence the older",
        "an old connection acked for the new one",
        one(
            "relay/inbox/ack.py",
            "    if session is not None and session != found[1].session:",
            "    if False:",
        ),
        (f"{REGISTRY}::test_f39_a_word_of_an_older_session_changes_no_row", INBOX, RACES),
    ),
    Bug(
        "P14 an old lineage's ack counts",
        "a cursor from before the rewind moved the device past what it lacks",
        one("relay/inbox/ack.py", "        if _past(device, cursor):\n            return None\n", ""),
        (f"{INBOX}::test_an_ack_of_a_past_lineage_changes_nothing", REARM),
    ),
    Bug(
        "P15 leases run on while nobody could be heard",
        "a relay that had slept told everybody was offline",
        one(
            "relay/presence/service.py",
            "            if now_ms - last_ms > OUTAGE_MS:  # we slept; the devices could not be heard\n",
            "            if False:\n",
        ),
        ("tests/unit/test_store_watch.py::test_what_we_slept_through_counts_against_nobody",),
    ),
    Bug(
        "P16 a circuit never opens",
        "a vendor that was down was called without end",
        one(
            "relay/push/limits.py",
            "        if count >= CALLS_MIN and failures >= FAILURES_SHARE * count:",
            "        if False:",
        ),
        (f"{LIMITS}::test_a_circuit_opens_when_half_of_twenty_calls_failed",),
    ),
    Bug(
        "P17 an expired message is handed out",
        "yesterday's code arrived today",
        one(
            "relay/inbox/visibility.py",
            "    return Why.EXPIRED if entry.expires_ms <= now_ms else None\n",
            "    return None\n",
        ),
        (f"{RULES}::test_why_a_page_skips_an_entry", PAGES),
    ),
    Bug(
        "P18 a cursor without its seal",
        "a device made up a cursor and skipped its inbox",
        one(
            "relay/inbox/cursor.py",
            "    if version != VERSION or key is None or not hmac.compare_digest(mac, _mac(key, device, body)):",
            "    if version != VERSION or key is None:",
        ),
        ("tests/unit/test_cursor.py::test_a_cursor_with_any_bit_changed_is_refused",),
    ),
    Bug(
        "P19 a gap is not named",
        "a client could not tell a skip from a hole",
        one("relay/inbox/batch.py", "            self.skip(seq, content)\n", "            self.position = seq\n"),
        (f"{PAGES}::test_entries_and_gaps_of_every_page_are_exactly_its_range",),
    ),
)
