"""Daft's provider for OpenAI-compatible servers with a role for each message, which ``prompt`` has no argument for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daft.ai.openai.protocols.prompter import OpenAIPrompter, OpenAIPrompterDescriptor
from daft.ai.openai.provider import OpenAIProvider
from daft.ai.protocols import Prompter, PrompterDescriptor


class ConversationProvider(OpenAIProvider):
    """``roles``: of the messages that ``prompt`` is given as a list, in order."""

    def __init__(self, roles: list[str], **options: Any) -> None:
        super().__init__("conversation", **options)
        self._roles = roles

    def get_prompter(self, *args: Any, **options: Any) -> PrompterDescriptor:
        made = super().get_prompter(*args, **options)
        return ConversationDescriptor(**vars(made), roles=self._roles)


@dataclass
class ConversationDescriptor(OpenAIPrompterDescriptor):
    roles: list[str] = field(default_factory=list)

    def instantiate(self) -> Prompter:
        made = ConversationPrompter(
            self.provider_name, self.provider_options, self.model_name, prompt_options=self.prompt_options
        )
        made.roles = self.roles
        return made


class ConversationPrompter(OpenAIPrompter):
    roles: list[str]

    async def prompt(self, messages: tuple[Any, ...]) -> Any:
        said = [{"role": role, "content": text} for role, text in zip(self.roles, messages, strict=True)]
        return await self._prompt_with_chat_completions(said)
