"""Rows about users, their groups and their wishes."""

from pydantic import Field

from relay.api.routes import Query, Route
from relay.api.schemas.users import MemberBody, MembersBody, MembershipOut, MembersOut, PreferencesBody, RenameBody
from relay.api.table.shared import BODY, CALLER, COMMIT, STORE
from relay.realtime.protocol import Id


class MembersQuery(Query):
    after: Id | None = None
    limit: int = Field(200, ge=1, le=1000)


ROUTES: tuple[Route, ...] = (
    Route(
        method="PUT",
        path="/v1/groups/{group}/members",
        handler="change_members",
        summary="Let users join and leave a group, in one step; the first to join makes it.",
        access="devices:write",
        request=MembersBody,
        responses={200: MembershipOut},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "too_many_recipients"),
        tag="groups",
    ),
    Route(
        method="GET",
        path="/v1/groups/{group}/members",
        handler="list_members",
        summary="Who is a member now.",
        access="messages:read",
        query=MembersQuery,
        responses={200: MembersOut},
        errors=(*CALLER, *STORE, "not_found", "validation_failed", "unknown_field"),
        tag="groups",
    ),
    Route(
        method="PUT",
        path="/v1/groups/{group}/members/{user}",
        handler="set_member",
        summary="What a member of an ultra group is told of.",
        access="devices:write",
        request=MemberBody,
        responses={204: None},
        errors=(*CALLER, *BODY, *COMMIT, "not_found"),
        tag="groups",
    ),
    Route(
        method="DELETE",
        path="/v1/groups/{group}/members/{user}",
        handler="remove_member",
        summary="Let a user leave; what was sent before stays its own.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="groups",
    ),
    Route(
        method="DELETE",
        path="/v1/groups/{group}",
        handler="dissolve_group",
        summary="Let everybody leave.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="groups",
    ),
    Route(
        method="POST",
        path="/v1/users/{user}/rename",
        handler="rename_user",
        summary="Give a user another name. Its tokens end; mint new ones, and its devices begin anew without a loss.",
        access="devices:write",
        request=RenameBody,
        responses={204: None},
        errors=(*CALLER, *BODY, *COMMIT, "not_found", "state_conflict"),
        tag="users",
    ),
    Route(
        method="DELETE",
        path="/v1/users/{user}",
        handler="delete_user",
        summary="Erase a user: its devices, inbox and wishes, what only it received, and its name in what others did.",
        access="devices:write",
        responses={204: None},
        errors=(*CALLER, *COMMIT, "not_found"),
        tag="users",
    ),
    *(
        Route(
            method=method,
            path="/v1/users/{user}/preferences",
            handler=handler,
            summary=summary,
            access=access,
            request=request,
            responses=responses,
            errors=errors,
            tag="users",
        )
        for method, handler, summary, access, request, responses, errors in (
            (
                "GET",
                "get_preferences",
                "What the user wants to be told of, and when not.",
                "messages:read",
                None,
                {200: PreferencesBody},
                (*CALLER, *STORE, "not_found"),
            ),
            (
                "PUT",
                "put_preferences",
                "Set what the user wants to be told of: quiet hours, levels, mutes. The whole of it.",
                "devices:write",
                PreferencesBody,
                {200: PreferencesBody},
                (*CALLER, *BODY, *COMMIT, "not_found"),
            ),
            (
                "DELETE",
                "delete_preferences",
                "Tell the user of everything again, at any time.",
                "devices:write",
                None,
                {204: None},
                (*CALLER, *COMMIT, "not_found"),
            ),
        )
    ),
)
